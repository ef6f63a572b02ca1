package lifecycle

import (
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// endedEvery is how far apart events are that credentials have ended: what was fetched together ends nearly together.
const endedEvery = time.Minute

// stepEnded emits events about credentials that the task has and that have ended, since they could not be replaced in time. Each
// is one event.
func (s *Session) stepEnded(now time.Time) (next time.Time) {
	var ended []string
	first := time.Time{}
	for name, h := range s.secrets {
		end := s.endOf(h)
		switch {
		case h.endReported || h.lost || end.IsZero(): // of one that is lost the replacement tells
		case h.answer.Kind == secrets.Issued && h.rotate.After(h.ends): // each one does (emitShortLived)
		case due(now, end):
			ended = append(ended, name)
			first = earliest(first, end)
		default:
			next = earliest(next, end)
		}
	}
	if len(ended) == 0 {
		return next
	}
	if again := s.endedReportedAt.Add(endedEvery); !s.endedReportedAt.IsZero() && now.Before(again) {
		return earliest(next, again)
	}
	slices.Sort(ended)
	for _, name := range ended {
		s.secrets[name].endReported = true
	}
	s.endedReportedAt = now
	s.host.Event(eventEnded(ended, first))
	return next
}
