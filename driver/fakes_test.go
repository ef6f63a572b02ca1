package driver

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// fakeInner is a wrapped driver whose processes are rows of a table, so that a test can choose the
// moment of each event. The real drivers are under test in e2e.
type fakeInner struct {
	drivers.DriverPlugin // what is not overridden is not called

	mu      sync.Mutex
	running map[string]*fakeProcess
	engine  *fakeEngine   // that of its runner
	stopped chan struct{} // a token for each StopTask that has begun
	hold    chan struct{} // StopTask waits for it, if not nil
	late    chan struct{} // an exit is reported only then, if not nil
	signals chan string   // each signal that was sent; full: no more
	recover func()        // called by RecoverTask, if not nil
}

type fakeProcess struct {
	exit chan struct{}
	res  *drivers.ExitResult
	end  time.Time
}

func newFakeInner() *fakeInner {
	return &fakeInner{running: map[string]*fakeProcess{}, stopped: make(chan struct{}, 100), signals: make(chan string, 100)}
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
	if p.res != nil {
		return
	}
	p.res = &drivers.ExitResult{Err: errors.New("EOF")}
	close(p.exit)
}

// lost reports whether it has lost a process.
func (f *fakeInner) lost() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.running {
		if p.res != nil && p.res.Err != nil {
			return true
		}
	}
	return false
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
	if err := f.engine.at("stop"); err != nil {
		f.lose(id)
		return err
	}
	f.end(id, 143)
	f.engine.ended()
	return nil
}

func (f *fakeInner) DestroyTask(id string, force bool) error {
	p := f.get(id)
	if p == nil {
		return drivers.ErrTaskNotFound
	}
	if err := f.engine.at("destroy"); err != nil {
		return err
	}
	if force {
		f.end(id, 137)
		f.engine.ended()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.running, id)
	return nil
}

func (f *fakeInner) RecoverTask(h *drivers.TaskHandle) error {
	if f.recover != nil {
		f.recover()
	}
	if f.engine != nil {
		return f.engine.recovered(f, h.Config.ID)
	}
	if f.get(h.Config.ID) == nil {
		return drivers.ErrTaskNotFound
	}
	return nil
}

func (f *fakeInner) SignalTask(id string, signal string) error {
	if f.get(id) == nil {
		return drivers.ErrTaskNotFound
	}
	f.signals <- signal
	return nil
}

func (f *fakeInner) InspectTask(id string) (*drivers.TaskStatus, error) {
	p := f.get(id)
	if p == nil {
		return nil, drivers.ErrTaskNotFound
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.engine.at("inspect"); err != nil {
		return nil, err
	}
	status := &drivers.TaskStatus{ID: id, State: drivers.TaskStateRunning, CompletedAt: p.end}
	if p.res != nil {
		status.State = drivers.TaskStateExited
	}
	return status, nil
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
	panics  bool
	left    error         // an earlier start's process cannot be removed
	arrived chan struct{} // a token for each start that has begun
	hold    chan struct{} // start waits for it or its context, if not nil
	network *drivers.DriverNetwork
	starts  int
	silent  chan struct{} // whether a process is still running is told only then, if not nil
	over    bool          // it did not
	engine  *fakeEngine   // nil: one that is never away
}

func (r *fakeRunner) removeLeftovers(context.Context, *drivers.TaskConfig, func()) error {
	if r.left == nil {
		return r.engine.answer()
	}
	return r.left
}

func (r *fakeRunner) start(ctx context.Context, t *task, what delivery) (process, error) {
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
	if r.panics {
		panic("in a start")
	}
	if r.fail != nil {
		return process{}, r.fail
	}
	if err := r.engine.at("start"); err != nil {
		return process{}, err
	}
	if _, err := what.give(ctx, owner{}); err != nil {
		return process{}, err
	}
	r.engine.launched()
	r.inner.launch(t.cfg.ID)
	return process{handle: fakeHandle(), network: r.network}, nil
}

// seek finds a process that the wrapped driver has lost. It can be reattached to by then.
func (r *fakeRunner) seek(ctx context.Context, _ process) finding {
	if r.engine != nil {
		return r.engine.seek(ctx, r.inner)
	}
	if r.silent != nil {
		<-r.silent
	}
	if r.over || !r.inner.lost() {
		return foundGone
	}
	r.inner.launch(fakeTaskID + "/1")
	return foundRunning
}

func (r *fakeRunner) remove(_ context.Context, _ process, _ time.Duration, _ string) error {
	if r.engine == nil {
		return nil
	}
	return r.engine.remove()
}

func (r *fakeRunner) endStrays(*drivers.TaskConfig) error { return nil }

func (r *fakeRunner) away(_ context.Context, err error) bool { return errors.Is(err, errAway) }

func (r *fakeRunner) holdCommand(*task) (*launcher.Hold, []string, error) {
	return nil, nil, errors.New("not in this test")
}

// fakeSession counts its end.
type fakeSession struct {
	mu      sync.Mutex
	ends    int
	pending bool
	notes   json.RawMessage
	full    error         // the journal cannot be written
	spec    *secrets.Spec // nil: the usual one
	login   *secrets.RegistryLogin
}

func (s *fakeSession) Set() *secrets.Set                { return &secrets.Set{} }
func (s *fakeSession) Watch()                           {}
func (s *fakeSession) Given(map[string]string) []string { return nil }
func (s *fakeSession) Reading(string) bool              { return false }
func (s *fakeSession) ImagePulled()                     {}

func (s *fakeSession) RegistryLogin() *secrets.RegistryLogin { return s.login }

func (s *fakeSession) Deliver(context.Context) (*secrets.Set, error) {
	return s.Set(), nil
}

func (s *fakeSession) Live(string) (secrets.Fields, time.Time) {
	return secrets.Fields{}, time.Time{}
}

func (s *fakeSession) Spec() *secrets.Spec {
	if s.spec != nil {
		return s.spec
	}
	return &secrets.Spec{StopTimeout: time.Second}
}

func (s *fakeSession) Driver() json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notes
}

func (s *fakeSession) SetDriver(n json.RawMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full == nil {
		s.notes = n
	}
	return s.full
}

func (s *fakeSession) EnqueueRevocations() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = true
}

func (s *fakeSession) isPending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending
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
	tk := unknownTask(t, r)
	r.inner.launch(tk.cfg.ID)
	tk.watch()
	return tk
}

// unknownTask is one that the fake driver does not know.
func unknownTask(t *testing.T, r *fakeRunner) *task {
	ctx, cancel := context.WithCancel(context.Background())
	d := &Driver{name: "docker", wrapped: &wrappedDocker, inner: r.inner, ctx: ctx, cancel: cancel, log: testLog(t), tasks: newTasks()}
	d.closing, d.close = context.WithCancel(ctx)
	d.events, d.live = newEvents(ctx, d.log, r.inner), newLiveDirs(d)
	cfg := &drivers.TaskConfig{ID: fakeTaskID, Name: "web", AllocID: "alloc", AllocDir: t.TempDir()}
	for _, dir := range []string{filepath.Join(cfg.TaskDir().Dir, "private"), cfg.TaskDir().SecretsDir} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	files, err := taskdir.OpenPublisher(cfg.TaskDir().SecretsDir)
	if err != nil {
		t.Fatal(err)
	}
	tk := &task{
		d: d, cfg: cfg, runner: r, files: files,
		session: &fakeSession{},
	}
	tk.logs = newLogPipes(tk.cfg)
	tk.setProcess(process{handle: fakeHandle(), network: r.network})
	d.tasks.add(tk)
	t.Cleanup(func() {
		cancel()
		d.background.Wait()
		d.events.join()
	})
	return tk
}

func (r *fakeRunner) envRoom(*task) int { return 1 << 20 }
