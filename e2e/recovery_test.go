package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// recovering is a task that is to survive the plugin and the agent, on one of the drivers.
type recovering struct{ driver, token string }

// recoveryJob has a database credential, whose lease is to be renewed about every half minute, and a
// secret whose changes restart the task. The pid file tells the process; what it prints tells the colour.
const recoveryJob = `
job "%[1]s" {
  group "g" {
    task "web" {
      driver = "%[2]s"
      %[3]s
      config {
        %[4]s
        command = "testapp"
        args    = ["-pidfile", "%[5]s", "env", "COLOUR"]
        secret "db" {
          path = "database/creds/%[1]s"
          env  = { DB_USER = "username", DB_PASSWORD = "password" }
        }
        secret "app" {
          path  = "secret/%[1]s"
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

// survivor is a task that runs, and what it had when that was last looked at.
type survivor struct {
	recovering
	name       string
	alloc      *harness.Alloc
	body       body
	lease      string
	generation int
	since      harness.Mark
}

func (r recovering) start(l *lab, prefix string) *survivor {
	l.t.Helper()
	return r.startLeased(l, prefix, 45*time.Second)
}

// startLeased is start with another time that the lease lives for without renewal.
func (r recovering) startLeased(l *lab, prefix string, ttl time.Duration) *survivor {
	l.t.Helper()
	s := &survivor{recovering: r, name: prefix + "-" + r.driver + "-" + r.token, generation: 1}
	v := l.agent.Vault()
	require.NoError(l.t, v.EnableDatabase(l.ctx, "database", l.MariaDB))
	require.NoError(l.t, v.DatabaseRole(l.ctx, "database", s.name, ttl, time.Hour))
	l.putColour(s.name, "green")
	l.mayRead(s.name, "secret/data/"+s.name, "database/creds/"+s.name)
	token, place, pidfile := identityBlock, fmt.Sprintf("role = %q\n", s.name), "pid"
	if r.token == "vault" {
		token, place = fmt.Sprintf("vault {\n role = %q\n}", s.name), ""
	}
	if r.driver == "docker" {
		place += `image = "${meta.image}"`
		pidfile = "/local/pid"
	}
	s.alloc = l.run(fmt.Sprintf(recoveryJob, s.name, r.driver, token, place, pidfile))
	l.lines(s.alloc, "web", `env COLOUR="green"`, 1)
	s.look(l)
	return s
}

// look takes down what the task has now.
func (s *survivor) look(l *lab) {
	l.t.Helper()
	s.body = l.bodyOf(s.alloc, "web", s.driver)
	l.until("one lease of "+s.name, func() error {
		leases, err := l.agent.Vault().Leases(l.ctx, "database/creds/"+s.name)
		if err != nil {
			return err
		}
		if len(leases) != 1 {
			return fmt.Errorf("leases %v", leases)
		}
		s.lease = leases[0]
		return nil
	})
	var err error
	s.since, err = l.agent.Vault().Mark()
	require.NoError(l.t, err)
}

// untouched waits until the task's lease has been renewed once more since the last look, and shows
// that nothing else was done about the task: same process, nothing minted, no login (C4).
func (s *survivor) untouched(l *lab) {
	l.t.Helper()
	v := l.agent.Vault()
	before := s.expiry(l)
	l.until("a renewal of the lease of "+s.name, func() error {
		if now := s.expiry(l); !now.After(before) {
			return fmt.Errorf("it ends at %s as before", now)
		}
		return nil
	})
	require.Equal(l.t, s.body, l.bodyOf(s.alloc, "web", s.driver), "the process of %s", s.name)
	l.notRestarted(s.alloc, "web")
	starts, err := s.alloc.Lines("web", "start ")
	require.NoError(l.t, err)
	require.Len(l.t, starts, s.generation)
	creds, err := v.Requests(s.since, "database/creds/"+s.name)
	require.NoError(l.t, err)
	require.Empty(l.t, creds, "%s has got new credentials", s.name)
}

// expiry is when the task's lease ends, as Vault has it.
func (s *survivor) expiry(l *lab) time.Time {
	l.t.Helper()
	found, err := l.agent.Vault().Client().Sys().LookupWithContext(l.ctx, s.lease)
	require.NoError(l.t, err, "the lease of %s", s.name)
	at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(found.Data["expire_time"]))
	require.NoError(l.t, err)
	return at
}

// rotates changes the task's secret.
func (s *survivor) rotates(l *lab, colour string) {
	l.t.Helper()
	l.putColour(s.name, colour)
	s.rotated(l, colour)
}

// rotated waits for the next generation. It has the new colour, its output is in the log (C8), and it
// has the lease of the one before.
func (s *survivor) rotated(l *lab, colour string) {
	l.t.Helper()
	s.generation++
	l.lines(s.alloc, "web", fmt.Sprintf("env COLOUR=%q", colour), 1)
	l.lines(s.alloc, "web", "start ", s.generation)
	l.notRestarted(s.alloc, "web")
	was := s.lease
	s.look(l)
	require.Equal(l.t, was, s.lease, "a change of another secret has replaced the lease")
}

// ends stops the job: within 5 s the lease is revoked, and nothing is owed any more (E1).
func (s *survivor) ends(l *lab) {
	l.t.Helper()
	require.NoError(l.t, s.alloc.Job.Stop(l.ctx))
	ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
	defer cancel()
	require.NoError(l.t, harness.Until(ctx, "the lease of "+s.name+" to be revoked", func() error {
		leases, err := l.agent.Vault().Leases(l.ctx, "database/creds/"+s.name)
		if err == nil && len(leases) > 0 {
			err = fmt.Errorf("leases %v", leases)
		}
		return err
	}))
}

// Neither a restart of the agent nor the death of agent or plugin does anything to a running task, and
// its secrets are looked after as before (C4).
func TestRecovery(t *testing.T) {
	t.Parallel()
	l := newOwnLab(t, harness.AgentOptions{Name: "recovery", Placement: harness.InPlace}, 5*time.Minute)
	var tasks []*survivor
	for _, r := range []recovering{{"docker", "identity"}, {"raw_exec", "identity"}, {"docker", "vault"}, {"raw_exec", "vault"}} {
		tasks = append(tasks, r.start(l, "recovery"))
	}
	for _, d := range []struct {
		name, colour string
		strike       func() error
	}{
		{"agent-restarted", "blue", func() error { return l.agent.Restart(l.ctx) }},
		{"agent-killed", "red", func() error {
			l.agent.Kill()
			return l.agent.Start(l.ctx)
		}},
		{"plugins-killed", "white", func() error { return l.killPlugins() }},
	} {
		ok := t.Run(d.name, func(t *testing.T) {
			l := l.of(t)
			mark, err := l.agent.Vault().Mark()
			require.NoError(t, err)
			plugins := l.plugins()
			require.NoError(t, d.strike())
			for _, s := range tasks {
				s.untouched(l)
			}
			logins, err := l.agent.Vault().Requests(mark, "auth/"+l.agent.AuthPath+"/login")
			require.NoError(t, err)
			require.Empty(t, logins, "somebody has logged in anew")
			for _, s := range tasks {
				l.putColour(s.name, d.colour)
			}
			for _, s := range tasks {
				s.rotated(l, d.colour)
			}
			if d.name == "agent-killed" {
				require.Equal(t, plugins, l.plugins(), "the plugins outlive the agent, and work for the next")
			}
		})
		require.True(t, ok)
	}
	for _, s := range tasks {
		s.ends(l)
	}
	l.nothingJournalled()
}

// plugins are the processes that serve the drivers.
func (l *lab) plugins() map[string]int {
	l.t.Helper()
	pids := map[string]int{}
	for _, driver := range []string{"docker", "raw_exec"} {
		pid, err := l.agent.PluginPID(driver)
		require.NoError(l.t, err)
		pids[driver] = pid
	}
	return pids
}

// killPlugins kills both drivers' plugins, and waits until Nomad has started them again.
func (l *lab) killPlugins() error {
	for _, driver := range []string{"docker", "raw_exec"} {
		dead, err := l.agent.PluginPID(driver)
		if err != nil {
			return err
		}
		if err := l.agent.KillPlugin(driver); err != nil {
			return err
		}
		err = harness.Until(l.ctx, "a new plugin for "+driver, func() error {
			pid, err := l.agent.PluginPID(driver)
			if err == nil && pid == dead {
				err = fmt.Errorf("it is still process %d", pid)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// nothingJournalled: the plugin has forgotten every task, and owes nothing.
func (l *lab) nothingJournalled() {
	l.t.Helper()
	l.until("the journal to be empty", func() error {
		var files []string
		err := filepath.WalkDir(l.agent.StateDir, func(path string, entry os.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				files = append(files, path)
			}
			return nil
		})
		if err == nil && len(files) > 0 {
			err = fmt.Errorf("there are %v", files)
		}
		return err
	})
}
