package driver

import (
	"context"
	"fmt"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/steps"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// start is the start of a task with secrets, while it is under way.
type start struct {
	d         *Driver
	cfg       *drivers.TaskConfig
	ours      secrets.TaskConfig
	byDefault bool // the job declares nothing: only what its policies grant is asked for

	spec     *secrets.Spec
	sessions sessions
	t        *task
}

// sessions makes the sessions of tasks: a *lifecycle.Keeper.
type sessions interface {
	Abandon(lifecycle.Task) error
	Open(context.Context, lifecycle.Start, lifecycle.Host) (session, error)
}

type keptSessions struct{ *lifecycle.Keeper }

func (k keptSessions) Open(ctx context.Context, st lifecycle.Start, h lifecycle.Host) (session, error) {
	s, err := k.Keeper.Open(ctx, st, h)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// steps is a start (S1), each step with its undo.
func (st *start) steps() []steps.Step {
	return append([]steps.Step{{Do: st.compile}, {Do: st.openKeeper}}, st.stepsWith()...)
}

// stepsWith are those once the sessions are there.
func (st *start) stepsWith() []steps.Step {
	return []steps.Step{
		{Do: st.makeTask, Undo: st.releaseLogs},
		{Do: st.removeLeftovers},
		{Do: st.secureDirs},
		{Do: st.findIdentity},
		{Do: st.openFiles, Undo: st.removeFiles},
		{Do: st.openSession, Undo: st.endSession},
		{Do: st.checkGranted},
		{Do: st.emitWhatIsGiven},
		{Do: st.prepareLive},
		{Do: st.startProcess, Undo: st.discardProcess},
		{Do: st.journalHandle},
		{Do: st.watch},
	}
}

// compile checks the job's configuration (S4, S5). Nothing has been asked of any server, and nothing touched.
func (st *start) compile(context.Context) (err error) {
	st.spec, err = st.d.wrapped.compile(st.cfg, st.ours)
	return err
}

func (st *start) openKeeper(context.Context) error {
	keeper, err := st.d.keep()
	st.sessions = keptSessions{keeper}
	return err
}

func (st *start) makeTask(context.Context) (err error) {
	st.t, err = st.d.newTask(st.cfg, st.spec.ExposeToken)
	return err
}

// newTask is a task that has no process and no secrets yet.
func (d *Driver) newTask(cfg *drivers.TaskConfig, exposeToken bool) (*task, error) {
	t := &task{d: d, cfg: cfg.Copy(), logs: newLogPipes(cfg)}
	if err := cfg.DecodeDriverConfig(&t.options); err != nil {
		return nil, fmt.Errorf("read the task's config: %w", err)
	}
	if !exposeToken {
		delete(t.cfg.Env, vaultTokenEnv)
	}
	t.runner = d.wrapped.runner(d, exposeToken)
	return t, nil
}

func (st *start) releaseLogs() error {
	st.t.logs.release()
	return nil
}

// removeLeftovers removes what an earlier start of this task left: its process first, then the leases it used. With
// that process goes the last who writes to the log pipes, and Nomad has begun to read them: it would stop.
func (st *start) removeLeftovers(ctx context.Context) error {
	if err := st.t.runner.removeLeftovers(ctx, st.cfg, st.t.holdLogs); err != nil {
		return fmt.Errorf("remove what an earlier start of this task left: %w", err)
	}
	if err := st.d.destroyEarlier(st.cfg); err != nil {
		return fmt.Errorf("remove what an earlier start of this task left: %w", err)
	}
	if err := st.sessions.Abandon(lifecycleTask(st.d.name, st.cfg)); err != nil {
		return fmt.Errorf("end an earlier start of this task: %w", err)
	}
	crashpoint.Reached(crashpoint.LeftoversRemoved, st.cfg.Name)
	st.d.swept.Do(st.d.sweepChannels)
	return nil
}

// secureDirs makes the task's private directory root's alone, and sees to it that its secrets are in memory (L3).
func (st *start) secureDirs(context.Context) error {
	if err := taskdir.HardenPrivate(st.cfg.TaskDir().Dir); err != nil {
		return err
	}
	return ensureTmpfs(st.cfg)
}

func (st *start) openFiles(context.Context) (err error) {
	st.t.files, err = taskdir.OpenPublisher(st.cfg.TaskDir().SecretsDir)
	return err
}

// removeFiles removes what was published, too, and the channel that a process was given.
func (st *start) removeFiles() error { return st.t.removeFiles() }

// openSession journals the intent, fetches and renders.
func (st *start) openSession(ctx context.Context) error {
	written, err := record{}.encode(st.t.cfg, st.t.options)
	if err != nil {
		return err
	}
	ctx, done := st.d.whileAgentStays(ctx, st.cfg)
	defer done()
	st.t.session, err = st.sessions.Open(ctx, lifecycle.Start{
		Task: lifecycleTask(st.d.name, st.cfg), Spec: st.spec, Config: st.ours, Env: st.cfg.Env, Driver: written,
	}, st.t)
	return err
}

// endSession has all that was fetched revoked.
func (st *start) endSession() error {
	st.t.session.End()
	return nil
}

// checkGranted gives a start up that nobody has asked for, and that has no secret.
func (st *start) checkGranted(context.Context) error {
	if st.byDefault && len(st.t.session.Spec().Secrets) == 0 {
		return errNothingGranted
	}
	return nil
}

// emitWhatIsGiven tells the operator what the task gets. The program has not run yet: what stands in an event is no promise.
func (st *start) emitWhatIsGiven(context.Context) error {
	for _, event := range st.t.session.Given(st.t.cfg.Env) {
		st.t.Event(event)
	}
	return nil
}

// prepareLive makes the live directories, so that they can be bound into a container that is created.
func (st *start) prepareLive(context.Context) error { return st.t.prepareLive() }

// startProcess publishes the files, fills the live directories and starts the first process.
func (st *start) startProcess(ctx context.Context) error {
	t := st.t
	proc, err := t.runner.start(ctx, t, st.delivery())
	if err != nil {
		return err
	}
	t.setProcess(proc)
	t.session.ImagePulled()
	// Not before the process has them, too: were we the only ones, then with a crash of ours the last
	// writer would be gone, and Nomad would start the task again with nobody who reads its logs.
	t.holdLogs()
	return nil
}

// delivery is what the first process gets: what is good when its program is about to run (S9).
func (st *start) delivery() delivery {
	t := st.t
	var early *secrets.Set // what was published as root's
	return delivery{
		early: func() error {
			early = t.session.Set()
			return t.files.Publish(t.withLinks(early), taskdir.NoOwner, taskdir.NoOwner)
		},
		give: func(ctx context.Context, o owner) (*secrets.Set, error) {
			stays, done := st.d.whileAgentStays(ctx, st.cfg)
			defer done()
			set, err := t.session.Deliver(stays)
			switch {
			case err != nil:
				return nil, err
			case early == nil:
				err = t.files.Publish(t.withLinks(set), o.UID, o.GID)
			case early == set:
				err = t.files.Give(t.withLinks(set), o.UID, o.GID)
			default:
				err = errBoundBefore
			}
			if err != nil {
				return nil, err
			}
			return set, t.serveLive(ctx, o)
		},
	}
}

func (st *start) discardProcess() error {
	_ = st.t.discardProcess() // it has said what it could not do
	return nil
}

// journalHandle is what recovery finds the process by (C4). Nothing that was started outlives its failure.
func (st *start) journalHandle(context.Context) error {
	if err := st.t.writeRecord(false); err != nil {
		return err
	}
	crashpoint.Reached(crashpoint.HandleNoted, st.cfg.Name)
	return nil
}

func (st *start) watch(context.Context) error {
	st.t.watch()
	st.d.tasks.add(st.t)
	st.t.session.Watch()
	crashpoint.Reached(crashpoint.Watching, st.cfg.Name)
	return nil
}
