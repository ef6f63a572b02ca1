package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// What may happen while a task is restarted in place (C8, C9). Each task here has one database
// credential of an hour, so that a lease which is left over is there to be seen. It is rotated by
// revoking its lease behind the plugin's back (C6): then the moment is the test's to choose.

// swapJob has a restart block that leaves time to put right what broke a start. It is made here: each test has options
// of its own.
const swapJob = `
job "%[1]s" {
  group "g" {
    restart {
      attempts = %[4]d
      interval = "10m"
      delay    = "10s"
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task "web" {
      driver       = "%[2]s"
      kill_timeout = "1s"` + lab.IdentityBlock + `
      config {
        role         = "%[1]s"
        stop_timeout = "15m"
        splay        = "0s"
        secret "db" {
          path = "%[1]s/creds/%[1]s"
          env  = { DB_USER = "username" }
          %[5]s
        }
        %[3]s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`

// swap is a test of one such task.
type swap struct {
	*lab.Lab
	// name is that of job, mount, policy and both roles; at most 10 letters, for it is to be found in
	// the names of the database's users.
	name   string
	driver string

	locked   bool   // the server waits for a lock, to make a credential
	restarts int    // in Nomad's restart block
	secret   string // more of the secret block
}

// eachDriver runs a test on both drivers, beside the others.
func eachDriver(t *testing.T, name string, test func(*testing.T, *swap)) {
	t.Parallel()
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			test(t, &swap{Lab: newLab(t), name: name + driver[:1], driver: driver})
		})
	}
}

// start runs the task with a config of this command.
func (s *swap) start(config string) *harness.Alloc {
	s.T.Helper()
	require.NoError(s.T, s.Vault.EnableDatabase(s.Ctx, s.name, s.MariaDB))
	require.NoError(s.T, s.Vault.DatabaseRole(s.Ctx, s.name, s.name, time.Hour, 2*time.Hour))
	if s.locked {
		s.LockedRole(s.name, s.name)
	}
	require.NoError(s.T, s.Vault.Policy(s.Ctx, s.name, fmt.Sprintf(`path "%s/creds/%s" { capabilities = ["read"] }`, s.name, s.name)))
	require.NoError(s.T, s.Vault.WorkloadRole(s.Ctx, s.Agent.AuthPath, s.name, harness.WorkloadRole{Policies: []string{s.name}, TTL: time.Hour}))
	if s.driver == "docker" {
		config = `image = "${meta.image}"` + "\n" + config
	}
	alloc := s.Run(fmt.Sprintf(swapJob, s.name, s.driver, config, s.restarts, s.secret))
	lab.NeverTwo(s.T.(*testing.T), alloc)
	s.Lines(alloc, "web", "start ", 1)
	s.Leases(s.creds(), 1)
	return alloc
}

func (s *swap) creds() string { return s.name + "/creds/" + s.name }

// rotate makes the plugin rotate the task's credential, some time within lease_check_interval.
func (s *swap) rotate() {
	s.T.Helper()
	old := s.Leases(s.creds(), 1)
	require.NoError(s.T, s.Vault.Client().Sys().RevokeWithContext(s.Ctx, old[0]))
}

// nothingLeft is that the task's end left no lease, no database user, no process, no journal (E1).
func (s *swap) nothingLeft(alloc *harness.Alloc) {
	s.T.Helper()
	s.Leases(s.creds(), 0)
	require.Empty(s.T, s.DatabaseUsers(s.name), "users left in MariaDB")
	s.NoProcess(alloc, "web")
	s.NoJournal(alloc)
}

// exitedWith waits until the task has ended for good, by itself, with this exit code.
func (s *swap) exitedWith(alloc *harness.Alloc, code int) {
	s.T.Helper()
	state, err := alloc.Ended(s.Ctx, "web")
	require.NoError(s.T, err)
	require.True(s.T, state.Failed)
	var codes []int
	for _, e := range state.Events {
		if e.Type == api.TaskTerminated {
			codes = append(codes, e.ExitCode)
		}
	}
	require.Equal(s.T, []int{code}, codes, "exit codes that Nomad saw")
}

// C8: StopTask wins over a rotation, at once: neither the old process's lingering nor the rotation's
// own stop_timeout holds it up (the test would be over before either), and no new process is started.
func TestStopWhileTheOldProcessLingers(t *testing.T) {
	eachDriver(t, "stopling", func(t *testing.T, s *swap) {
		alloc := s.start(`
command = "testapp"
args    = ["-linger", "10m", "sleep"]`)
		s.rotate()
		s.Lines(alloc, "web", "stopping", 1)
		require.NoError(t, s.Jobs[0].Stop(s.Ctx))
		s.nothingLeft(alloc)
		require.Len(t, s.Lines(alloc, "web", "start ", 1), 1, "processes started")
	})
}

// C8, E1: a stop while the server makes the new credential does not wait for it.
func TestStopWhileANewSecretIsMade(t *testing.T) {
	eachDriver(t, "stopmint", func(t *testing.T, s *swap) {
		s.locked = true
		alloc := s.start(`
command = "testapp"
args    = ["sleep"]`)
		s.inTheMaking(alloc, func() {
			ctx, cancel := context.WithTimeout(s.Ctx, 20*time.Second) // a request's own bound is half a minute
			defer cancel()
			require.NoError(t, s.Jobs[0].Stop(ctx))
		})
	})
}

// C8: a task that exits by itself during a rotation is reported as such, with its own exit code.
func TestExitWhileANewSecretIsMade(t *testing.T) {
	eachDriver(t, "exitmint", func(t *testing.T, s *swap) {
		s.locked = true
		alloc := s.start(`
command = "testapp"
args    = ["-exit-code", "7", "until", "${NOMAD_TASK_DIR}/go"]`)
		s.inTheMaking(alloc, func() {
			require.NoError(t, os.WriteFile(alloc.Dir("web", "local", "go"), nil, 0o644))
			s.exitedWith(alloc, 7)
		})
	})
}

// inTheMaking ends the task while the server makes a new credential for it, and sees that nothing is
// left, neither then nor when the server goes on.
func (s *swap) inTheMaking(alloc *harness.Alloc, end func()) {
	s.T.Helper()
	release, err := s.MariaDB.Lock(s.Ctx, s.name)
	require.NoError(s.T, err)
	s.rotate()
	s.CredentialsPending(s.name, 1)
	end()
	s.nothingLeft(alloc)
	require.NoError(s.T, release())
	s.CredentialsPending(s.name, 0)
	s.nothingLeft(alloc)
	require.Len(s.T, s.Lines(alloc, "web", "start ", 1), 1, "processes started")
}

// C8, as before, while the task is told of the new secret by a script, which would go on for longer
// than the test. (On raw_exec it does go on, as all does that Nomad's executor runs beside a task.)
func TestExitWhileTheChangeScriptRuns(t *testing.T) {
	eachDriver(t, "exitscr", func(t *testing.T, s *swap) {
		s.secret = `
change_mode = "script"
change_script {
  command = "/bin/sh"
  args    = ["-c", "touch $NOMAD_TASK_DIR/go; exec sleep 600"]
  timeout = "15m"
}`
		alloc := s.start(`
command = "testapp"
args    = ["-exit-code", "7", "until", "${NOMAD_TASK_DIR}/go"]`)
		s.rotate()
		s.exitedWith(alloc, 7)
		s.nothingLeft(alloc)
	})
}

// C8: the end of the new process is the task's, also when it comes before the rotation has ended.
func TestTheNewProcessExitsAtOnce(t *testing.T) {
	eachDriver(t, "exitnew", func(t *testing.T, s *swap) {
		alloc := s.start(`
command = "/bin/sh"
args    = ["-c", "if [ -e $NOMAD_TASK_DIR/ran ]; then exit 7; fi; touch $NOMAD_TASK_DIR/ran; exec testapp sleep"]`)
		s.rotate()
		s.exitedWith(alloc, 7)
		s.nothingLeft(alloc)
	})
}

// C9: if the new process cannot be started after the old one was stopped, that is the task's exit, and
// Nomad's restart policy takes over.
func TestTheNewStartFails(t *testing.T) {
	eachDriver(t, "failnew", func(t *testing.T, s *swap) {
		s.restarts = 1
		needed := filepath.Join(t.TempDir(), "needed")
		require.NoError(t, os.Mkdir(needed, 0o755))
		config := fmt.Sprintf(`
command = "testapp"
args    = ["env", "DB_USER"]
mount {
  type   = "bind"
  source = "%s"
  target = "/needed"
}`, needed)
		if s.driver == "raw_exec" {
			testapp, err := os.ReadFile(filepath.Join(s.Dir(), "bin", "testapp"))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(needed, "testapp"), testapp, 0o755))
			config = fmt.Sprintf(`
command = "%s/testapp"
args    = ["env", "DB_USER"]`, needed)
		}
		alloc := s.start(config)
		s.Lines(alloc, "web", "env DB_USER=", 1)
		require.NoError(t, os.Rename(needed, needed+".away"))
		s.rotate()
		s.logged("alloc_id=" + alloc.ID + " task=web type=Terminated")
		require.NoError(t, os.Rename(needed+".away", needed))
		terminated, err := alloc.WaitEvent(s.Ctx, "web", "Terminated")
		require.NoError(t, err)
		require.Contains(t, terminated, "restart for new secrets: ")
		require.Contains(t, terminated, needed, "the event must say what is missing")

		users := s.Lines(alloc, "web", "env DB_USER=", 2)
		s.Until("Nomad's restart to be known", func() error {
			restarts, err := alloc.Restarts(s.Ctx, "web")
			if err == nil && restarts != 1 {
				err = fmt.Errorf("restarts: %d", restarts)
			}
			return err
		})
		require.Len(t, lab.ProcessesOf(alloc, "testapp"), 1)
		// The first credential, and the one that the failed start was for, are given back.
		s.Leases(s.creds(), 1)
		require.Equal(t, s.DatabaseUsers(s.name), []string{strings.Trim(users[1], `"`)})
		require.NoError(t, s.Jobs[0].Stop(s.Ctx))
		s.nothingLeft(alloc)
	})
}

// logged waits until the agent's log has a text: it is there before the servers know.
func (s *swap) logged(text string) {
	s.T.Helper()
	s.Until(fmt.Sprintf("%q in the agent's log", text), func() error {
		log, err := os.ReadFile(s.Agent.LogPath)
		if err == nil && !bytes.Contains(log, []byte(text)) {
			err = errors.New("it is not there")
		}
		return err
	})
}

// C8: calls that come while the task is between two processes wait for the new one, and succeed.
func TestCallsDuringASwap(t *testing.T) {
	eachDriver(t, "calls", func(t *testing.T, s *swap) {
		alloc := s.start(`
command = "testapp"
args    = ["-linger", "8s", "env", "DB_USER"]`)
		s.Lines(alloc, "web", "env DB_USER=", 1)
		info, err := alloc.Info(s.Ctx)
		require.NoError(t, err)
		s.rotate()
		s.Lines(alloc, "web", "stopping", 1)

		old := lab.ProcessesOf(alloc, "testapp")
		require.Len(t, old, 1)
		waited := func(what string, err error) error {
			if err == nil && slices.Equal(old, lab.ProcessesOf(alloc, "testapp")) {
				err = errors.New("it was answered while the old process was there")
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", what, err)
			}
			return err
		}
		var calls errgroup.Group
		var printed string
		calls.Go(func() (err error) {
			printed, _, err = alloc.Exec(s.Ctx, "web", "sh", "-c", "echo $DB_USER")
			return waited("exec", err)
		})
		// One that does no harm to a program that has not asked for any yet: it comes as soon as that runs.
		calls.Go(func() error { return waited("signal", alloc.Signal(s.Ctx, "web", "SIGWINCH")) })
		calls.Go(func() error { return s.followLogs(info, "env DB_USER=", 2) })
		begin := time.Now()
		calls.Go(func() error {
			return harness.Until(s.Ctx, "usage of the new process", func() error {
				usage, err := alloc.Stats(s.Ctx, "web")
				if err != nil {
					return fmt.Errorf("stats: %w", err)
				}
				if lines, err := alloc.Lines("web", "start "); err != nil || len(lines) < 2 || usage.Timestamp < begin.Add(8*time.Second).UnixNano() {
					return errors.Join(errors.New("not yet"), err)
				}
				return nil
			})
		})
		require.Len(t, s.Lines(alloc, "web", "start ", 1), 1, "the calls came too late to be in the swap")
		require.NoError(t, calls.Wait())

		users := s.Lines(alloc, "web", "env DB_USER=", 2)
		require.NotEqual(t, users[0], users[1])
		require.Equal(t, strings.Trim(users[1], `"`), strings.TrimSpace(printed), "exec must have the new environment")
		restarts, err := alloc.Restarts(s.Ctx, "web")
		require.NoError(t, err)
		require.Zero(t, restarts)
		_, err = alloc.WaitEvent(s.Ctx, "web", `secret "db" rotated (its lease was revoked); task restarted in place`)
		require.NoError(t, err)
		require.NoError(t, s.Jobs[0].Stop(s.Ctx))
		s.nothingLeft(alloc)
	})
}

// followLogs is `nomad alloc logs -f`, until it has seen n lines that begin with prefix.
func (s *swap) followLogs(info *api.Allocation, prefix string, n int) error {
	stop := make(chan struct{})
	defer close(stop)
	frames, errs := s.Agent.Client().AllocFS().Logs(info, true, "web", "stdout", "start", 0, stop, nil)
	var seen strings.Builder
	for strings.Count("\n"+seen.String(), "\n"+prefix) < n {
		select {
		case frame, ok := <-frames:
			if !ok {
				return fmt.Errorf("the stream of logs ended after:\n%s", seen.String())
			}
			seen.Write(frame.Data)
		case err := <-errs:
			return fmt.Errorf("follow logs: %w", err)
		case <-s.Ctx.Done():
			return fmt.Errorf("follow logs: %w; seen:\n%s", s.Ctx.Err(), seen.String())
		}
	}
	return nil
}
