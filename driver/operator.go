package driver

import (
	"context"
	"errors"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/control"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/nomadversion"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// What the operator's commands reach of a plugin process (docs/operate.md, "Status, refresh, rotate").

// listenAgain is how long to wait until the status socket is tried again.
const listenAgain = 10 * time.Second

// serveOperator answers at the status socket until the plugin ends. That it cannot be made is no reason not to run tasks.
func (d *Driver) serveOperator() {
	d.mu.Lock()
	stateDir := d.opts.stateDir
	d.mu.Unlock()
	warned := false
	for {
		server, err := control.Listen(stateDir, d.name, os.Getpid(), d.log)
		if err == nil {
			err = server.Serve(d.closing, d)
		}
		if err != nil && !warned {
			d.log.Warn("the operator's commands cannot reach this plugin; it is tried again", "state_dir", stateDir, "error", err)
			warned = true
		}
		select {
		case <-d.closing.Done():
			return
		case <-time.After(listenAgain):
		}
	}
}

// kept is what keep has found, for Report, which must not wait for another keep.
type kept struct {
	keeper *lifecycle.Keeper
	err    error  // why there is none
	config string // a hash of it
	server string
}

// keptNow notes what keep has found; d.mu is held.
func (d *Driver) keptNow(k *lifecycle.Keeper, err error) {
	now := kept{keeper: k, err: err, config: d.opts.hash}
	if was := d.kept.Load(); was != nil && was.config == now.config {
		now.server = was.server
	} else if c, err := vault.New(d.opts.vault); err == nil {
		if u, err := url.Parse(c.Address()); err == nil {
			now.server = u.Redacted()
		}
		c.Close()
	}
	d.kept.Store(&now)
}

// Report is how this process stands. It waits for nothing: neither for a server, nor for an engine, nor for a task.
func (d *Driver) Report() control.Report {
	r := control.Report{
		Driver: d.name, PID: os.Getpid(), Started: d.started, Version: Version, Commit: Commit, Nomad: nomadversion.Wrapped(),
		AgentGone: d.agent.goneSince(), Tasks: []lifecycle.TaskStatus{}, Revocations: []lifecycle.RevocationStatus{},
	}
	if k := d.kept.Load(); k != nil {
		r.Config, r.Server = k.config, k.server
		if k.err != nil {
			r.Problem = secrets.Shorten(k.err.Error())
		}
		if k.keeper != nil {
			st := k.keeper.Status()
			r.Tasks, r.Revocations = st.Tasks, st.Revocations
		}
	}
	for _, t := range d.unwatched.all() {
		r.Tasks = append(r.Tasks, lifecycle.TaskStatus{
			Namespace: t.Namespace, Job: t.JobID, Alloc: t.AllocID, Task: t.Name, State: lifecycle.TaskUnwatched,
			LastError: &lifecycle.LastError{Text: "its journal cannot be used: restart the task to have its secrets renewed"},
			Secrets:   []lifecycle.SecretStatus{},
		})
	}
	return r
}

// Operate does what the operator asks for.
func (d *Driver) Operate(ctx context.Context, op lifecycle.Operation, sel lifecycle.Selection) ([]lifecycle.Outcome, error) {
	k := d.kept.Load()
	if k == nil || k.keeper == nil {
		return nil, errors.New("this plugin has no tasks with secrets: its state directory cannot be used (see status)")
	}
	d.log.Info("an operator asks for something", "operation", op, "alloc", sel.Alloc, "task", sel.Task, "secret", sel.Secret)
	all := k.keeper.Operate(ctx, op, sel)
	if all == nil {
		all = []lifecycle.Outcome{}
	}
	return all, nil
}

// agent is what is known of the agent at the other end. One that has this plugin, be it the one that started it or one
// that came after it, asks for its fingerprint for as long as it runs.
type agent struct {
	mu      sync.Mutex // guards what follows
	streams int
	gone    time.Time // since when there is none
}

func (a *agent) connected() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.streams++
	a.gone = time.Time{}
}

func (a *agent) disconnected() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.streams--; a.streams == 0 {
		a.gone = time.Now()
	}
}

// goneSince is since when no agent is connected; zero: one is.
func (a *agent) goneSince() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.gone
}
