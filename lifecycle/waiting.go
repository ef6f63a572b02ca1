package lifecycle

import (
	"context"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const (
	// waitEventAfter is how long a start waits before an event says so.
	waitEventAfter = 3 * time.Second
	// maxWaitEvents is how many such events a start has at most: Nomad keeps ten of a task.
	maxWaitEvents = 3
)

// waiting emits events of what a start waits for, and until when: nobody can look into a start, and it may wait for
// minutes. Each cause is one event.
type waiting struct {
	event func(string)
	began time.Time

	mu      sync.Mutex // guards what follows
	emitted map[string]bool
}

func newWaiting(event func(string)) *waiting {
	return &waiting{event: event, began: time.Now(), emitted: map[string]bool{}}
}

// attempt begins what is repeated until it succeeds, or until ctx ends. failed is to be called after each failure after which
// it is repeated, with until when that is done; done is to be called when it is over, and joins what was begun.
func (w *waiting) attempt(ctx context.Context, what string) (failed func(err error, until time.Time), done func()) {
	end, _ := ctx.Deadline()
	var cause error
	until := end
	emit := func() { // w.mu is held
		if cause == nil {
			w.emitLocked(what, eventNoAnswerYet(what, until))
		} else {
			w.emitLocked(causeOf(cause), eventWaits(cause, until))
		}
	}
	over := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		timer := time.NewTimer(waitEventAfter)
		defer timer.Stop()
		select {
		case <-timer.C:
			w.mu.Lock()
			defer w.mu.Unlock()
			emit()
		case <-over:
		}
	})
	failed = func(err error, till time.Time) {
		w.mu.Lock()
		defer w.mu.Unlock()
		cause, until = err, earliest(till, end)
		if time.Since(w.began) >= waitEventAfter {
			emit()
		}
	}
	return failed, func() {
		close(over)
		work.Wait()
	}
}

func (w *waiting) emitLocked(cause, msg string) {
	if w.emitted[cause] || len(w.emitted) >= maxWaitEvents {
		return
	}
	w.emitted[cause] = true
	w.event(msg)
}

// causeOf is what makes two errors one cause: their words, and not the ports and times in them.
func causeOf(err error) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, err.Error())
}

// retryableUntil is until when what failed with err is repeated; zero: as long as the start waits.
func (id *identity) retryableUntil(l *tokenState, err error) time.Time {
	if secrets.KindOf(err) == secrets.Refused && l != nil && id.source == journal.FromIdentity {
		return l.since.Add(standbyLag)
	}
	return time.Time{}
}
