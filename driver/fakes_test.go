package driver

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// fakeInner is a wrapped driver whose processes are rows of a table, so that a test can choose the
// moment of each event. The real drivers are under test in e2e.
type fakeInner struct {
	drivers.DriverPlugin // what is not overridden is not called

	mu      sync.Mutex
	running map[string]*fakeProcess
	stopped chan struct{} // a token for each StopTask that has begun
	hold    chan struct{} // StopTask waits for it, if not nil
	late    chan struct{} // an exit is told only then, if not nil
}

type fakeProcess struct {
	exit chan struct{}
	res  *drivers.ExitResult
	end  time.Time
}

func newFakeInner() *fakeInner {
	return &fakeInner{running: map[string]*fakeProcess{}, stopped: make(chan struct{}, 100)}
}

func (f *fakeInner) launch(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running[id] = &fakeProcess{exit: make(chan struct{})}
}

func (f *fakeInner) get(id string) *fakeProcess {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running[id]
}

// end makes the process exit.
func (f *fakeInner) end(id string, code int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.running[id]; p != nil && p.res == nil {
		p.res, p.end = &drivers.ExitResult{ExitCode: code}, time.Now()
		close(p.exit)
	}
}

// lose makes the wait for the process end, as when an engine is away.
func (f *fakeInner) lose(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.running[id]
	p.res = &drivers.ExitResult{Err: errors.New("EOF")}
	close(p.exit)
}

func (f *fakeInner) WaitTask(ctx context.Context, id string) (<-chan *drivers.ExitResult, error) {
	p := f.get(id)
	if p == nil {
		return nil, drivers.ErrTaskNotFound
	}
	ch := make(chan *drivers.ExitResult, 1)
	go func() {
		defer close(ch)
		select {
		case <-p.exit:
			if f.late != nil {
				<-f.late
			}
			ch <- p.res
		case <-ctx.Done():
		}
	}()
	return ch, nil
}

func (f *fakeInner) StopTask(id string, _ time.Duration, _ string) error {
	if f.get(id) == nil {
		return drivers.ErrTaskNotFound
	}
	f.stopped <- struct{}{}
	if f.hold != nil {
		<-f.hold
	}
	f.end(id, 143)
	return nil
}

func (f *fakeInner) DestroyTask(id string, force bool) error {
	p := f.get(id)
	if p == nil {
		return drivers.ErrTaskNotFound
	}
	if force {
		f.end(id, 137)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.running, id)
	return nil
}

func (f *fakeInner) RecoverTask(h *drivers.TaskHandle) error {
	if f.get(h.Config.ID) == nil {
		return drivers.ErrTaskNotFound
	}
	return nil
}

func (f *fakeInner) SignalTask(id string, _ string) error {
	if f.get(id) == nil {
		return drivers.ErrTaskNotFound
	}
	return nil
}

func (f *fakeInner) InspectTask(id string) (*drivers.TaskStatus, error) {
	p := f.get(id)
	if p == nil {
		return nil, drivers.ErrTaskNotFound
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return &drivers.TaskStatus{ID: id, State: drivers.TaskStateRunning, CompletedAt: p.end}, nil
}

// TaskStats gives one figure a process, then ends with it.
func (f *fakeInner) TaskStats(ctx context.Context, id string, _ time.Duration) (<-chan *drivers.TaskResourceUsage, error) {
	p := f.get(id)
	if p == nil {
		return nil, drivers.ErrTaskNotFound
	}
	ch := make(chan *drivers.TaskResourceUsage, 1)
	ch <- &drivers.TaskResourceUsage{}
	go func() {
		defer close(ch)
		select {
		case <-p.exit:
		case <-ctx.Done():
		}
	}()
	return ch, nil
}

func (f *fakeInner) TaskEvents(context.Context) (<-chan *drivers.TaskEvent, error) {
	return make(chan *drivers.TaskEvent), nil
}

func (f *fakeInner) PluginInfo() (*base.PluginInfoResponse, error) {
	return &base.PluginInfoResponse{}, nil
}
func (f *fakeInner) ConfigSchema() (*hclspec.Spec, error) { return hclspec.NewObject(nil), nil }

// fakeRunner starts fake processes.
type fakeRunner struct {
	inner   *fakeInner
	fail    error
	arrived chan struct{} // a token for each start that has begun
	hold    chan struct{} // start waits for it or its context, if not nil
	network *drivers.DriverNetwork
	starts  int
	away    chan struct{} // whether a process outlived a lost wait is told only then, if not nil
	over    bool          // it did not
}

func (r *fakeRunner) reap(context.Context, *drivers.TaskConfig, func()) error { return nil }

func (r *fakeRunner) start(ctx context.Context, t *task, _ *secrets.Set, publish func(owner) error) (process, error) {
	r.starts++
	if r.arrived != nil {
		r.arrived <- struct{}{}
	}
	if r.hold != nil {
		select {
		case <-r.hold:
		case <-ctx.Done():
			return process{}, ctx.Err()
		}
	}
	if r.fail != nil {
		return process{}, r.fail
	}
	if err := publish(owner{}); err != nil {
		return process{}, err
	}
	r.inner.launch(t.cfg.ID)
	return process{handle: fakeHandle(), network: r.network}, nil
}

// outlived is true of a process that was lost sight of. The wrapped driver can take it up by then.
func (r *fakeRunner) outlived(_ context.Context, _ process, res *drivers.ExitResult) bool {
	if r.away != nil {
		<-r.away
	}
	if res.Err == nil || r.over {
		return false
	}
	r.inner.launch(fakeTaskID + "/1")
	return true
}

func (r *fakeRunner) launcherInside(*drivers.TaskConfig) (program, secretsDir string, err error) {
	return "", "", errors.New("not in this test")
}

// fakeSession counts its end.
type fakeSession struct {
	mu    sync.Mutex
	ends  int
	owed  bool
	notes json.RawMessage
}

func (s *fakeSession) Set() *secrets.Set   { return &secrets.Set{} }
func (s *fakeSession) Spec() *secrets.Spec { return &secrets.Spec{StopTimeout: time.Second} }
func (s *fakeSession) Watch()              {}
func (s *fakeSession) Driver() json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notes
}

func (s *fakeSession) SetDriver(n json.RawMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = n
	return nil
}

func (s *fakeSession) Owe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owed = true
}

func (s *fakeSession) isOwed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owed
}

func (s *fakeSession) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends++
}

func (s *fakeSession) ended() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ends
}

func fakeHandle() *drivers.TaskHandle {
	h := drivers.NewTaskHandle(1)
	if err := h.SetDriverState(struct{}{}); err != nil {
		panic(err)
	}
	return h
}

const fakeTaskID = "alloc/web/1"

// fakeTask is a task under a fake driver, with its first process running.
func fakeTask(t *testing.T, r *fakeRunner) *task {
	ctx, cancel := context.WithCancel(context.Background())
	d := &Driver{name: "docker", wrapped: wrappedDocker, inner: r.inner, ctx: ctx, cancel: cancel, log: testLog(t), tasks: newTasks()}
	d.events = newEvents(ctx, d.log, r.inner)
	files, err := secrets.OpenPublisher(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tk := &task{
		d: d, cfg: &drivers.TaskConfig{ID: fakeTaskID, Name: "web", AllocID: "alloc"}, runner: r, files: files,
		session: &fakeSession{}, ended: make(chan struct{}), idle: make(chan struct{}),
	}
	tk.logs = newLogPipes(tk.cfg)
	tk.setProcess(process{handle: fakeHandle(), network: r.network})
	r.inner.launch(tk.cfg.ID)
	d.tasks.add(tk)
	tk.watch()
	t.Cleanup(func() {
		cancel()
		d.events.join()
	})
	return tk
}
