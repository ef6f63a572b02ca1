package driver

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/shared/eventer"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// heldEvents is how many events wait for Nomad to subscribe, and how many of a task that is recovered wait
// for it to listen.
const heldEvents = 256

// events carries the inner driver's task events and ours to Nomad, in one stream.
type events struct {
	out  *eventer.Eventer
	done sync.WaitGroup

	mu         sync.Mutex
	subscribed bool
	held       []*drivers.TaskEvent
	recovered  map[string][]*drivers.TaskEvent // of tasks that Nomad does not listen for yet, by its id
}

func newEvents(ctx context.Context, log hclog.Logger, inner drivers.DriverPlugin) *events {
	e := &events{out: eventer.NewEventer(ctx, log), recovered: map[string][]*drivers.TaskEvent{}}
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

// hold keeps a task's events until release. An agent that has started drops those of a task that it
// recovers, until it waits for the task's end.
func (e *events) hold(taskID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.recovered[taskID] = nil
}

func (e *events) release(taskID string) {
	e.mu.Lock()
	held := e.recovered[taskID]
	delete(e.recovered, taskID)
	e.mu.Unlock()
	for _, ev := range held {
		e.send(ev)
	}
}

func (e *events) send(ev *drivers.TaskEvent) {
	e.mu.Lock()
	if held, ok := e.recovered[ev.TaskID]; ok {
		if len(held) < heldEvents {
			e.recovered[ev.TaskID] = append(held, ev)
		}
		e.mu.Unlock()
		return
	}
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
