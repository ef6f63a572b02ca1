package driver

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/shared/eventer"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// heldEvents is how many events wait for Nomad to subscribe: those of recovery come before it.
const heldEvents = 256

// events carries the inner driver's task events and ours to Nomad, in one stream.
type events struct {
	out  *eventer.Eventer
	done sync.WaitGroup

	mu         sync.Mutex
	subscribed bool
	held       []*drivers.TaskEvent
}

func newEvents(ctx context.Context, log hclog.Logger, inner drivers.DriverPlugin) *events {
	e := &events{out: eventer.NewEventer(ctx, log)}
	from, err := inner.TaskEvents(ctx)
	if err != nil {
		log.Warn("the wrapped driver gives no task events", "error", err)
		return e
	}
	e.done.Add(1)
	go func() {
		defer e.done.Done()
		for {
			select {
			case <-ctx.Done():
				return
			case ev, ok := <-from:
				if !ok {
					return
				}
				e.send(ev)
			}
		}
	}()
	return e
}

func (e *events) send(ev *drivers.TaskEvent) {
	e.mu.Lock()
	if !e.subscribed {
		if len(e.held) < heldEvents {
			e.held = append(e.held, ev)
		}
		e.mu.Unlock()
		return
	}
	e.mu.Unlock()
	_ = e.out.EmitEvent(ev) // an error is the end of the plugin
}

// say tells the operator something about a task.
func (e *events) say(cfg *drivers.TaskConfig, msg string) {
	e.send(&drivers.TaskEvent{
		TaskID: cfg.ID, TaskName: cfg.Name, AllocID: cfg.AllocID, Timestamp: time.Now(), Message: msg,
	})
}

func (e *events) subscribe(ctx context.Context) (<-chan *drivers.TaskEvent, error) {
	ch, err := e.out.TaskEvents(ctx)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	held := e.held
	e.held, e.subscribed = nil, true
	e.mu.Unlock()
	e.done.Add(1)
	go func() { // the reader of ch is our caller, who has it only once we return
		defer e.done.Done()
		for _, ev := range held {
			_ = e.out.EmitEvent(ev)
		}
	}()
	return ch, nil
}

func (e *events) join() { e.done.Wait() }
