package driver

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/steps"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// fakeSessions gives one session.
type fakeSessions struct {
	abandon, open error
	session       *fakeSession
	opened        int
}

func (f *fakeSessions) Abandon(lifecycle.Task) error { return f.abandon }

func (f *fakeSessions) Open(context.Context, lifecycle.Start, lifecycle.Host) (session, error) {
	if f.open != nil {
		return nil, f.open
	}
	f.opened++
	return f.session, nil
}

// Whichever step of a start fails, what was done by then is undone and nothing else: no process, no file, no session
// and no task is left.
func TestStartIsUndone(t *testing.T) {
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		change          func(*start, *fakeSessions, *fakeRunner)
		started, opened int
		err             error
	}{
		"none": {change: func(*start, *fakeSessions, *fakeRunner) {}, opened: 1, started: 1},
		"an earlier process cannot be removed": {err: broken, change: func(_ *start, _ *fakeSessions, r *fakeRunner) {
			r.left = broken
		}},
		"an earlier session cannot be ended": {err: broken, change: func(_ *start, f *fakeSessions, _ *fakeRunner) {
			f.abandon = broken
		}},
		"no directory": {err: os.ErrNotExist, change: func(st *start, _ *fakeSessions, _ *fakeRunner) {
			must.NoError(t, os.Remove(st.cfg.TaskDir().SecretsDir))
		}},
		"the secrets cannot be fetched": {err: broken, change: func(_ *start, f *fakeSessions, _ *fakeRunner) {
			f.open = broken
		}},
		"nothing is granted": {err: errNothingGranted, opened: 1, change: func(st *start, _ *fakeSessions, _ *fakeRunner) {
			st.byDefault = true
		}},
		"the process cannot be started": {err: broken, opened: 1, started: 1, change: func(_ *start, _ *fakeSessions, r *fakeRunner) {
			r.fail = broken
		}},
		"the journal cannot be written": {err: broken, opened: 1, started: 1, change: func(_ *start, f *fakeSessions, _ *fakeRunner) {
			f.session.full = broken
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, dir := taskOnDisk(t)
			must.NoError(t, os.Mkdir(cfg.TaskDir().Dir+"/private", 0o777))
			must.NoError(t, cfg.EncodeConcreteDriverConfig(map[string]any{"image": "app"}))
			r := &fakeRunner{inner: newFakeInner()}
			f := &fakeSessions{session: &fakeSession{}}
			ctx, cancel := context.WithCancel(context.Background())
			wrapped := wrappedDocker
			wrapped.runner = func(*Driver, bool) runner { return r }
			d := &Driver{name: "docker", wrapped: &wrapped, inner: r.inner, ctx: ctx, cancel: cancel, log: testLog(t), tasks: newTasks()}
			d.events = newEvents(ctx, d.log, r.inner)
			defer d.events.join()
			defer cancel()
			st := &start{d: d, cfg: cfg, spec: &secrets.Spec{}, sessions: f}
			test.change(st, f, r)

			err := steps.Run(ctx, st.stepsWith()...)
			must.EqOp(t, test.opened, f.opened)
			must.EqOp(t, test.started, r.starts)
			if test.err == nil {
				must.NoError(t, err)
				must.NotNil(t, r.inner.get(cfg.ID))
				must.EqOp(t, st.t, d.tasks.get(cfg.ID))
				must.EqOp(t, 0, f.session.ended())
				must.SliceNotEmpty(t, openBelow(t, cfg.AllocDir), must.Sprint("nothing is ever open, and this test shows nothing"))
				must.NoError(t, st.t.destroy(true))
				return
			}
			must.ErrorIs(t, err, test.err)
			must.Nil(t, r.inner.get(cfg.ID), must.Sprint("a process is left"))
			must.Nil(t, d.tasks.get(cfg.ID))
			must.EqOp(t, test.opened, f.session.ended())
			must.True(t, st.t.logs.ended)
			must.SliceEmpty(t, openBelow(t, cfg.AllocDir), must.Sprint("descriptors are left open"))
			left, err := os.ReadDir(dir)
			must.True(t, err == nil || errors.Is(err, os.ErrNotExist))
			must.SliceEmpty(t, left, must.Sprint("files are left"))
		})
	}
}

// openBelow is what this process has open below a directory.
func openBelow(t *testing.T, dir string) (open []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	must.NoError(t, err)
	for _, fd := range fds {
		if path, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(path, dir+"/") {
			open = append(open, path)
		}
	}
	return open
}

// What a job says is checked before anything is touched.
func TestStartChecksFirst(t *testing.T) {
	d := &Driver{}
	st := &start{d: d, cfg: &drivers.TaskConfig{Name: "web"}, ours: secrets.TaskConfig{Secrets: map[string]*secrets.SecretConfig{"db": {}}}}
	err := steps.Run(t.Context(), st.steps()...)
	must.EqOp(t, secrets.Invalid, secrets.KindOf(err))
	must.Nil(t, st.t)
	must.Nil(t, d.keeper)
}

// givenSession has one set after the other.
type givenSession struct {
	*fakeSession
	sets []*secrets.Set // the first is what it has
}

func (s *givenSession) Set() *secrets.Set { return s.sets[0] }

func (s *givenSession) Deliver(context.Context) (*secrets.Set, error) {
	if len(s.sets) > 1 {
		s.sets = s.sets[1:]
	}
	return s.sets[0], nil
}

// S9: files that a container binds by name are root's until its user is known, and given to that as they are. If they were replaced
// while the container was created, the program does not run with what that has bound: another one binds the new ones.
func TestFilesBoundAreThoseOfTheProgram(t *testing.T) {
	cfg, dir := taskOnDisk(t)
	must.NoError(t, os.Mkdir(cfg.TaskDir().Dir+"/private", 0o777))
	files, err := taskdir.OpenPublisher(dir)
	must.NoError(t, err)
	defer files.Close()
	of := func(value string) *secrets.Set {
		return &secrets.Set{Files: []secrets.RenderedFile{{Path: "app.conf", Data: secrets.TextValue(value), Perms: 0o400}}}
	}
	wrapped := wrappedDocker
	d := &Driver{name: "docker", wrapped: &wrapped, ctx: t.Context(), log: testLog(t), tasks: newTasks()}
	st := &start{d: d, cfg: cfg, t: &task{d: d, cfg: cfg, files: files}}
	st.t.session = &givenSession{fakeSession: &fakeSession{}, sets: []*secrets.Set{of("old"), of("new")}}
	is := func(value string, owner uint32) {
		t.Helper()
		info, err := os.Stat(dir + "/app.conf")
		must.NoError(t, err)
		must.EqOp(t, owner, info.Sys().(*syscall.Stat_t).Uid)
		content, err := os.ReadFile(dir + "/app.conf")
		must.NoError(t, err)
		must.EqOp(t, value, string(content))
	}

	what, o := st.delivery(), owner{UID: 4321, GID: 4321}
	must.NoError(t, what.early())
	is("old", 0)
	_, err = what.give(t.Context(), o)
	must.ErrorIs(t, err, errBoundBefore)
	is("old", 0)
	must.NoError(t, what.early()) // of the next container
	is("new", 0)
	set, err := what.give(t.Context(), o)
	must.NoError(t, err)
	must.EqOp(t, st.t.session.Set(), set)
	is("new", 4321)

	what = st.delivery() // of a container that binds none
	_, err = what.give(t.Context(), owner{UID: 1234, GID: 1234})
	must.NoError(t, err)
	is("new", 1234)
}
