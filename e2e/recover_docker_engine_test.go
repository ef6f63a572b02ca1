package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// engineLab is a lab on a Docker engine of its own.
type engineLab struct {
	*lab.Lab
	engine *harness.Engine
}

// A Docker engine with live-restore is restarted, and killed, under a task: the task runs on, and its
// secrets are looked after as before: nothing is restarted, nothing fetched anew (C3, C4, C12). Where containers end
// with their engine, that is the task's exit (C9).
func TestEngineRestarts(t *testing.T) {
	t.Parallel()
	engine, err := shared.NewEngine(t.Context(), "engine")
	if engine != nil {
		t.Cleanup(func() { require.NoError(t, engine.Close()) })
	}
	require.NoError(t, err)
	l := engineLab{newOwnLab(t, harness.AgentOptions{
		Name: "engine", Placement: harness.Beside, DockerHCL: fmt.Sprintf("endpoint = %q", engine.Host),
		Meta: map[string]string{"engine": engine.Host},
	}, 3*time.Minute), engine}
	require.NoError(t, l.Vault.EnableDatabase(l.Ctx, "database", l.MariaDB))
	require.NoError(t, l.Vault.DatabaseRole(l.Ctx, "database", "engine-app", 20*time.Second, time.Hour))
	l.PutColour("engine-app", "green")
	l.AllowLeased("engine-app", "database/creds/engine-app", "secret/data/engine-app")

	// For comparison, a task of Nomad's own driver, which takes the engine's end for the container's.
	builtIn := l.RunFileAsIs("engine-plain", lab.Vars{"engine": engine.Host})

	alloc := l.RunFile("engine-app", nil)
	l.Lines(alloc, "app", "file ", 1)
	pid, lease := l.pid(alloc, "app"), l.theLease()
	since := l.Mark()
	for _, strike := range []struct {
		name string
		end  func() error
	}{{"stopped", func() error { engine.Stop(); return nil }}, {"killed", func() error { return engine.Kill(l.Ctx) }}} {
		require.NoError(t, strike.end())
		require.NoError(t, engine.Start(l.Ctx))
		l.hears(alloc)
		l.renewed(lease)
		require.Equal(t, pid, l.pid(alloc, "app"), strike.name)
		require.Equal(t, lease, l.theLease(), strike.name)
		l.NotRestarted(alloc, "app")
		state, err := builtIn.State(l.Ctx, "web")
		require.NoError(t, err)
		t.Logf("%s: to Nomad, its own driver's task is %s, and was restarted %d times", strike.name, state.State, state.Restarts)
	}
	issued, err := l.Vault.Requests(since, "database/creds/engine-app")
	require.NoError(t, err)
	require.Empty(t, issued)

	// A rotation in place, after it as before.
	l.PutColour("engine-app", "blue")
	second := l.another(alloc, pid)
	l.hears(alloc)
	require.Contains(t, l.environ(alloc), "COLOUR=blue")
	require.Equal(t, lease, l.theLease())
	l.NotRestarted(alloc, "app")

	require.NoError(t, engine.EndWithContainers(l.Ctx))
	engine.Stop()
	require.NoError(t, engine.Start(l.Ctx))
	l.another(alloc, second)
	restarts, err := alloc.Restarts(l.Ctx, "app")
	require.NoError(t, err)
	require.EqualValues(t, 1, restarts)
	l.Until("another lease", func() error {
		leases, err := l.Vault.Leases(l.Ctx, "database/creds/engine-app")
		if err == nil && (len(leases) != 1 || leases[0] == lease) {
			err = fmt.Errorf("leases %v, first %s", leases, lease)
		}
		return err
	})
	l.hears(alloc)

	require.NoError(t, alloc.Job.Stop(l.Ctx))
	l.Until("all leases to be revoked", func() error {
		leases, err := l.Vault.Leases(l.Ctx, "database/creds/engine-app")
		if err == nil && len(leases) > 0 {
			err = fmt.Errorf("there are %v", leases)
		}
		return err
	})
}

// pid is the process in a task's container.
func (l engineLab) pid(alloc *harness.Alloc, task string) (pid int) {
	l.T.Helper()
	l.Until("the container of "+task, func() error {
		c, err := l.engine.Container(l.Ctx, alloc, task)
		if err != nil {
			return err
		}
		if pid = c.State.Pid; pid == 0 {
			return fmt.Errorf("it is %s", c.State.Status)
		}
		return nil
	})
	return pid
}

// another waits until a task has another process.
func (l engineLab) another(alloc *harness.Alloc, than int) (pid int) {
	l.T.Helper()
	l.Until("another process", func() error {
		c, err := l.engine.Container(l.Ctx, alloc, "app")
		if err != nil {
			return err
		}
		if pid = c.State.Pid; pid == 0 || pid == than {
			return fmt.Errorf("it is %d, %s", pid, c.State.Status)
		}
		return nil
	})
	return pid
}

func (l engineLab) environ(alloc *harness.Alloc) []string {
	l.T.Helper()
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", l.pid(alloc, "app")))
	require.NoError(l.T, err)
	return strings.Split(string(env), "\x00")
}

// hears: a signal reaches the task, and what it prints its log.
func (l engineLab) hears(alloc *harness.Alloc) {
	l.T.Helper()
	heard, err := alloc.Lines("app", "changed ")
	require.NoError(l.T, err)
	l.Until("the task to hear a signal", func() error {
		if err := alloc.Signal(l.Ctx, "app", "SIGHUP"); err != nil {
			return err
		}
		lines, err := alloc.Lines("app", "changed ")
		if err == nil && len(lines) <= len(heard) {
			err = fmt.Errorf("nothing new in its log")
		}
		return err
	})
}

// theLease is the one that the task has.
func (l engineLab) theLease() string {
	l.T.Helper()
	leases, err := l.Vault.Leases(l.Ctx, "database/creds/engine-app")
	require.NoError(l.T, err)
	require.Len(l.T, leases, 1)
	return leases[0]
}

// renewed waits until a lease is.
func (l engineLab) renewed(lease string) {
	l.T.Helper()
	s := &lab.Survivor{Lease: lease}
	before := s.Expiry(l.Lab)
	l.Until("a renewal", func() error {
		if now := s.Expiry(l.Lab); !now.After(before) {
			return fmt.Errorf("it ends at %s as before", now)
		}
		return nil
	})
}
