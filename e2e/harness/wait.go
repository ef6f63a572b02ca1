package harness

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	pollEvery   = 100 * time.Millisecond
	defaultWait = 60 * time.Second
)

// Until polls cond until it returns nil, which is how everything in the harness waits. Its error,
// at the deadline of ctx (or a minute, if ctx has none), says what was waited for and what cond
// said last.
func Until(ctx context.Context, what string, cond func() error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultWait)
		defer cancel()
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return nil
		}
		if stop := new(stopWaiting); errors.As(err, &stop) {
			return fmt.Errorf("waiting for %s: %w", what, stop.err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (last: %w)", what, context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// never wraps an error that waiting longer does not help, so that Until gives up at once.
func never(err error) error { return &stopWaiting{err} }

type stopWaiting struct{ err error }

func (s *stopWaiting) Error() string { return s.err.Error() }
func (s *stopWaiting) Unwrap() error { return s.err }
