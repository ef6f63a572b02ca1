package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// engineJob is a task with a lease that is renewed every few seconds, and a secret whose change restarts
// it. It prints a file on each SIGHUP. ENGINE is for the sweep after a run that was killed: that engine is
// not there to be asked for its containers.
const engineJob = `
job "engine-app" {
  group "g" {
    restart {
      attempts = 10
      interval = "10m"
      delay    = "10s" # the engine is back by then: a start without it is refused for good
    }
    task "app" {
      driver = "docker"
      ` + identityBlock + `
      env {
        ENGINE = "${meta.engine}"
      }
      config {
        image        = "${meta.image}"
        network_mode = "none"
        command      = "testapp"
        args         = ["sighup", "/etc/passwd"]
        role         = "engine-app"
        secret "db" {
          path = "database/creds/engine-app"
          env  = { DB_USER = "username", DB_PASSWORD = "password" }
        }
        secret "kv" {
          path  = "secret/engine-app"
          env   = { COLOUR = "colour" }
          splay = "0s"
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`

// engineLab is a lab on a Docker engine of its own.
type engineLab struct {
	*lab
	engine *harness.Engine
}

// A Docker engine with live-restore is restarted, and killed, under a task: the task runs on, and its
// secrets are looked after as before: nothing is restarted, nothing minted (C3, C4). Where containers end
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
	require.NoError(t, l.Vault.EnableDatabase(l.ctx, "database", l.MariaDB))
	require.NoError(t, l.Vault.DatabaseRole(l.ctx, "database", "engine-app", 20*time.Second, time.Hour))
	l.putColour("engine-app", "green")
	l.mayRead("engine-app", "database/creds/engine-app", "secret/data/engine-app")

	// For comparison, a task of Nomad's own driver, which takes the engine's end for the container's.
	plain, err := l.agent.SubmitAsIs(l.ctx, fmt.Sprintf(dockerSleep, "engine-plain", `meta {
      engine = "`+engine.Host+`"
    }
    restart {
      attempts = 10
      interval = "10m"
      delay    = "1s"
    }`))
	require.NoError(t, err)
	l.jobs = append(l.jobs, plain)
	builtIn, err := plain.Running(l.ctx)
	require.NoError(t, err)

	alloc := l.run(engineJob)
	l.lines(alloc, "app", "file ", 1)
	pid, lease := l.pid(alloc, "app"), l.theLease()
	since := l.mark()
	for _, strike := range []struct {
		name string
		end  func() error
	}{{"stopped", func() error { engine.Stop(); return nil }}, {"killed", func() error { return engine.Kill(l.ctx) }}} {
		require.NoError(t, strike.end())
		require.NoError(t, engine.Start(l.ctx))
		l.hears(alloc)
		l.renewed(lease)
		require.Equal(t, pid, l.pid(alloc, "app"), strike.name)
		require.Equal(t, lease, l.theLease(), strike.name)
		l.notRestarted(alloc, "app")
		state, err := builtIn.State(l.ctx, "web")
		require.NoError(t, err)
		t.Logf("%s: to Nomad, its own driver's task is %s, and was restarted %d times", strike.name, state.State, state.Restarts)
	}
	minted, err := l.Vault.Requests(since, "database/creds/engine-app")
	require.NoError(t, err)
	require.Empty(t, minted)

	// A rotation in place, after it as before.
	l.putColour("engine-app", "blue")
	second := l.another(alloc, pid)
	l.hears(alloc)
	require.Contains(t, l.environ(alloc), "COLOUR=blue")
	require.Equal(t, lease, l.theLease())
	l.notRestarted(alloc, "app")

	require.NoError(t, engine.EndWithContainers(l.ctx))
	engine.Stop()
	require.NoError(t, engine.Start(l.ctx))
	l.another(alloc, second)
	restarts, err := alloc.Restarts(l.ctx, "app")
	require.NoError(t, err)
	require.EqualValues(t, 1, restarts)
	l.until("another lease", func() error {
		leases, err := l.Vault.Leases(l.ctx, "database/creds/engine-app")
		if err == nil && (len(leases) != 1 || leases[0] == lease) {
			err = fmt.Errorf("leases %v, first %s", leases, lease)
		}
		return err
	})
	l.hears(alloc)

	require.NoError(t, alloc.Job.Stop(l.ctx))
	l.until("all leases to be revoked", func() error {
		leases, err := l.Vault.Leases(l.ctx, "database/creds/engine-app")
		if err == nil && len(leases) > 0 {
			err = fmt.Errorf("there are %v", leases)
		}
		return err
	})
}

// pid is the process in a task's container.
func (l engineLab) pid(alloc *harness.Alloc, task string) (pid int) {
	l.t.Helper()
	l.until("the container of "+task, func() error {
		c, err := l.engine.Container(l.ctx, alloc, task)
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
	l.t.Helper()
	l.until("another process", func() error {
		c, err := l.engine.Container(l.ctx, alloc, "app")
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
	l.t.Helper()
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", l.pid(alloc, "app")))
	require.NoError(l.t, err)
	return strings.Split(string(env), "\x00")
}

// hears: a signal reaches the task, and what it prints its log.
func (l engineLab) hears(alloc *harness.Alloc) {
	l.t.Helper()
	heard, err := alloc.Lines("app", "changed ")
	require.NoError(l.t, err)
	l.until("the task to hear a signal", func() error {
		if err := alloc.Signal(l.ctx, "app", "SIGHUP"); err != nil {
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
	l.t.Helper()
	leases, err := l.Vault.Leases(l.ctx, "database/creds/engine-app")
	require.NoError(l.t, err)
	require.Len(l.t, leases, 1)
	return leases[0]
}

// renewed waits until a lease is.
func (l engineLab) renewed(lease string) {
	l.t.Helper()
	s := &survivor{lease: lease}
	before := s.expiry(l.lab)
	l.until("a renewal", func() error {
		if now := s.expiry(l.lab); !now.After(before) {
			return fmt.Errorf("it ends at %s as before", now)
		}
		return nil
	})
}
