package driver

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// stats streams a task's usage over all its processes. The inner driver's stream ends with each
// process; ours ends with the task (C8).
func (t *task) stats(ctx context.Context, interval time.Duration) (<-chan *drivers.TaskResourceUsage, error) {
	ctx, end := context.WithCancel(ctx)
	in, err := t.processStats(ctx, interval)
	if err != nil {
		end()
		return nil, err
	}
	out := make(chan *drivers.TaskResourceUsage)
	t.d.background.Go(func() {
		defer close(out)
		defer end()
		defer context.AfterFunc(t.d.ctx, end)()
		for {
			if !forward(ctx, in, out) {
				return
			}
			// The process ended. Its end is either the task's, or a restart's in place, which has the phase say so
			// before it stops a process.
			if t.endsWithin(ctx, statsRetry) || ctx.Err() != nil {
				return
			}
			if in, err = t.processStats(ctx, interval); err != nil {
				return
			}
		}
	})
	return out, nil
}

// statsRetry is the pause before usage is asked for anew, so that a stream which ends at once is
// not asked for in a tight loop.
const statsRetry = 100 * time.Millisecond

// endsWithin reports whether the task ends within a while. It waits no longer than ctx.
func (t *task) endsWithin(ctx context.Context, while time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, while)
	defer cancel()
	return t.state.await(ctx, taskPhase.over) == nil
}

// processStats is the current process's stream, once there is one.
func (t *task) processStats(ctx context.Context, interval time.Duration) (<-chan *drivers.TaskResourceUsage, error) {
	for {
		if err := t.state.await(ctx, taskPhase.settled); err != nil {
			return nil, err
		}
		in, err := t.d.inner.TaskStats(ctx, t.innerID(), interval)
		if err == nil || !errors.Is(err, drivers.ErrTaskNotFound) || t.state.now().over() {
			return in, err
		}
		select { // a restart in place has begun since
		case <-time.After(statsRetry):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// forward copies until in is closed (true) or nobody reads any more (false).
func forward(ctx context.Context, in <-chan *drivers.TaskResourceUsage, out chan<- *drivers.TaskResourceUsage) bool {
	for {
		select {
		case usage, ok := <-in:
			if !ok {
				return true
			}
			select {
			case out <- usage:
			case <-ctx.Done():
				return false
			}
		case <-ctx.Done():
			return false
		}
	}
}
