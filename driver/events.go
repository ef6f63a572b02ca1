package driver

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/shared/eventer"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// queuedEvents is how many events wait for Nomad to take them, and how many of a task that is recovered wait
// for it to listen. Of more the oldest are dropped: Nomad keeps ten a task.
const queuedEvents = 256

// events carries the inner driver's task events and ours to Nomad, in one stream. Nobody who has something to say waits
// for Nomad to take it: a stream that is not read delays events, and nothing else (C14).
type events struct {
	out  *eventer.Eventer
	ctx  context.Context // ends with the plugin
	done sync.WaitGroup
	wake chan struct{} // there is something to be sent

	mu         sync.Mutex // guards what follows
	subscribed bool
	queued     []*drivers.TaskEvent            // not sent yet
	recovered  map[string][]*drivers.TaskEvent // of tasks that Nomad does not listen for yet, by its id
}

func newEvents(ctx context.Context, log hclog.Logger, inner drivers.DriverPlugin) *events {
	e := &events{
		out: eventer.NewEventer(ctx, log), ctx: ctx, wake: make(chan struct{}, 1),
		recovered: map[string][]*drivers.TaskEvent{},
	}
	e.done.Go(e.loop)
	from, err := inner.TaskEvents(ctx)
	if err != nil {
		log.Warn("the wrapped driver gives no task events", "error", err)
		return e
	}
	e.done.Go(func() {
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
	})
	return e
}

// loop sends what is in the queue, one event after the other.
func (e *events) loop() {
	for {
		select {
		case <-e.wake:
		case <-e.ctx.Done():
			return
		}
		for ev := e.next(); ev != nil; ev = e.next() {
			if e.out.EmitEvent(ev) != nil { // the end of the plugin
				return
			}
		}
	}
}

// next takes the oldest event from the queue; nil if there is nothing to be sent.
func (e *events) next() *drivers.TaskEvent {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.subscribed || len(e.queued) == 0 {
		return nil
	}
	ev := e.queued[0]
	e.queued = e.queued[1:]
	return ev
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
	defer e.mu.Unlock()
	held := e.recovered[taskID]
	delete(e.recovered, taskID)
	e.queueLocked(held...)
}

func (e *events) send(ev *drivers.TaskEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if held, ok := e.recovered[ev.TaskID]; ok {
		e.recovered[ev.TaskID] = newest(append(held, ev))
		return
	}
	e.queueLocked(ev)
}

func (e *events) queueLocked(all ...*drivers.TaskEvent) {
	e.queued = newest(append(e.queued, all...))
	select {
	case e.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// newest are as many of the last events as are kept.
func newest(all []*drivers.TaskEvent) []*drivers.TaskEvent {
	return all[max(0, len(all)-queuedEvents):]
}

// emit tells the operator something about a task. It is kept short here, whoever says it: Nomad keeps events
// in its Raft log (S8).
func (e *events) emit(cfg *drivers.TaskConfig, msg string) {
	e.send(&drivers.TaskEvent{
		TaskID: cfg.ID, TaskName: cfg.Name, AllocID: cfg.AllocID, Timestamp: time.Now(), Message: secrets.Shorten(msg),
	})
}

func (e *events) subscribe(ctx context.Context) (<-chan *drivers.TaskEvent, error) {
	ch, err := e.out.TaskEvents(ctx)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.subscribed = true
	e.queueLocked()
	return ch, nil
}

func (e *events) join() { e.done.Wait() }
