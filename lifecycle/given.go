package lifecycle

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Given is what the task's operator is told when it starts, in events: what the task gets, and which of its own variables,
// env, are replaced. To be called before Watch.
func (s *Session) Given(env map[string]string) (events []string) {
	if text := s.eventGiven(); text != "" {
		events = append(events, text)
	}
	if text := s.eventReplaced(env); text != "" {
		events = append(events, text)
	}
	return events
}

// eventGiven says what the task gets of which secret.
func (s *Session) eventGiven() string {
	const head = "Secrets: "
	var parts []string
	room := maxNamed
	more := 0 // names that are not in the event
	for i := range s.spec.Secrets {
		sec := &s.spec.Secrets[i]
		h := s.secrets[sec.Name]
		if h == nil {
			continue
		}
		part := sec.Name + " from " + plain(sec.Request.Path)
		if lives := s.lifetime(h); lives != "" {
			part += " (" + lives + ")"
		}
		names := append(sec.Variables(h.answer.Fields), sec.Places(h.answer.Fields)...)
		shown := names[:min(len(names), room)]
		parts, room, more = append(parts, part+listed(shown)), room-len(shown), more+len(names)-len(shown)
	}
	if len(s.spec.Files) > 0 {
		var names []string
		for _, f := range s.spec.Files {
			names = append(names, f.Path)
		}
		shown := names[:min(len(names), room)]
		more += len(names) - len(shown)
		if len(shown) > 0 {
			parts = append(parts, "from several"+listed(shown))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	tail := ""
	if rest := len(parts) - maxNamed; rest > 0 {
		parts, tail = parts[:maxNamed], fmt.Sprintf("; and %d more secrets", rest)
	}
	if more > 0 {
		tail += fmt.Sprintf("; and %d more names", more)
	}
	return head + secrets.Cut(strings.Join(parts, "; "), maxEvent-len(head)-len(tail)) + tail
}

func listed(names []string) string {
	if len(names) == 0 {
		return ""
	}
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = plain(name)
	}
	return ": " + strings.Join(quoted, ", ")
}

// lifetime is how long a credential lives, and by when it is replaced at the latest, where that is known: of a lease that
// can be renewed it is the server's secret.
func (s *Session) lifetime(h *secretState) string {
	lease := h.answer.Lease
	switch {
	case h.answer.Kind == secrets.Issued && !h.ends.IsZero():
		return "rotates before " + span(h.ends.Sub(h.answer.At))
	case h.answer.Kind != secrets.Leased || lease.Duration <= 0:
		return ""
	case s.endsWithToken(h):
		return "lease " + span(lease.Duration) + ", rotates before " + span(h.token.ends.Sub(h.answer.At))
	case !lease.Renewable:
		return "lease " + span(lease.Duration) + ", rotates before " + span(lease.Duration)
	}
	return "lease " + span(lease.Duration)
}

// span is a duration in few characters: 1h, 90m is 1h30m, and of what is longer than an hour no seconds.
func span(d time.Duration) string {
	if d = d.Round(time.Second); d > time.Hour {
		d = d.Round(time.Minute)
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// eventReplaced says which of the task's own variables a secret's take the place of.
func (s *Session) eventReplaced(env map[string]string) string {
	var replaced []string
	for i := range s.spec.Secrets {
		sec := &s.spec.Secrets[i]
		h := s.secrets[sec.Name]
		if h == nil {
			continue
		}
		for _, name := range sec.Variables(h.answer.Fields) {
			if _, own := env[name]; own {
				replaced = append(replaced, name+" (secret "+strconv.Quote(sec.Name)+")")
			}
		}
	}
	if len(replaced) == 0 {
		return ""
	}
	tail := ""
	if more := len(replaced) - maxNamed; more > 0 {
		replaced, tail = replaced[:maxNamed], fmt.Sprintf(" and %d more", more)
	}
	const head, foot = "Secrets: these variables of the job are replaced by secrets: ", "; rename them in the job if that is not intended"
	return head + secrets.Cut(strings.Join(replaced, ", "), maxEvent-len(head)-len(tail)-len(foot)) + tail + foot
}
