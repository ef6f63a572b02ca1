package driver

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/control"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

// watchedByAgent is a wrapped driver whose fingerprint goes on until nobody asks for it.
type watchedByAgent struct{ *fakeInner }

func (watchedByAgent) Fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	out := make(chan *drivers.Fingerprint)
	go func() {
		<-ctx.Done()
		close(out)
	}()
	return out, nil
}

func (watchedByAgent) SetConfig(*base.Config) error { return nil }

// operatedDriver is a driver whose state directory cannot be used for tasks: there is a file at the journal's place.
func operatedDriver(t *testing.T) *Driver {
	stateDir := filepath.Join(t.TempDir(), "state")
	must.NoError(t, os.Mkdir(stateDir, 0o711))
	must.NoError(t, os.WriteFile(filepath.Join(stateDir, "journal"), nil, 0o600))
	d := &Driver{name: "docker", wrapped: &wrappedDocker, inner: watchedByAgent{newFakeInner()}, started: time.Now(), log: testLog(t), tasks: newTasks()}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.closing, d.close = context.WithCancel(d.ctx)
	d.events, d.live = newEvents(d.ctx, d.log, d.inner), newLiveDirs(d)
	d.opts = options{stateDir: stateDir, hash: hashOf([]byte("x"))}
	d.begun.Do(func() {}) // what else is begun in earnest
	t.Cleanup(d.Close)
	return d
}

// A plugin process shows who it is, with which configuration, and what keeps it from having tasks with secrets.
func TestReportOfAPlugin(t *testing.T) {
	d := operatedDriver(t)
	t.Setenv("VAULT_ADDR", "https://user:hunter2@vault:8200")
	_, err := d.Fingerprint(t.Context())
	must.NoError(t, err)
	d.background.Go(d.serveOperator)
	var all []control.Report
	for len(all) == 0 {
		all, err = control.Status(t.Context(), d.opts.stateDir)
		must.NoError(t, err)
	}
	r := all[0]
	must.EqOp(t, "docker", r.Driver)
	must.EqOp(t, os.Getpid(), r.PID)
	must.EqOp(t, Version, r.Version)
	must.EqOp(t, hashOf([]byte("x")), r.Config)
	must.NotEq(t, hashOf([]byte("y")), r.Config)
	must.EqOp(t, "https://user:xxxxx@vault:8200", r.Server)
	must.StrContains(t, r.Problem, "state_dir cannot be used")
	must.True(t, r.Started.Equal(d.started))

	done, err := control.Operate(t.Context(), d.opts.stateDir, lifecycle.Refresh, lifecycle.Selection{})
	must.NoError(t, err)
	must.StrContains(t, done[0].Problem, "its state directory cannot be used")

	d.Close()
	all, err = control.Status(t.Context(), d.opts.stateDir)
	must.NoError(t, err)
	must.SliceEmpty(t, all)
}

// A plugin whose agent is gone says so, until an agent has it again.
func TestAgentIsGone(t *testing.T) {
	d := operatedDriver(t)
	must.True(t, d.Report().AgentGone.IsZero())
	connect := func() (leave func()) {
		ctx, cancel := context.WithCancel(context.Background())
		found, err := d.Fingerprint(ctx)
		must.NoError(t, err)
		return func() {
			cancel()
			for range found {
			}
		}
	}
	leave := connect()
	must.True(t, d.Report().AgentGone.IsZero())
	leave()
	for d.Report().AgentGone.IsZero() { // its goroutine may not have ended yet
		time.Sleep(time.Millisecond)
	}
	leave = connect()
	must.True(t, d.Report().AgentGone.IsZero())
	leave()
}

// Tasks that run on although their journal cannot be used are shown as such.
func TestReportOfAnUnwatchedTask(t *testing.T) {
	d := operatedDriver(t)
	d.unwatched.add(new(lifecycle.Keeper), lifecycle.Task{ID: "1", AllocID: "alloc", Name: "web", JobID: "job"})
	r := d.Report()
	must.Len(t, 1, r.Tasks)
	must.EqOp(t, lifecycle.TaskUnwatched, r.Tasks[0].State)
	must.EqOp(t, "job", r.Tasks[0].Job)
	must.StrContains(t, r.Tasks[0].LastError.Text, "restart the task")
}
