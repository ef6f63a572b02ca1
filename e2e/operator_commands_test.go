package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/control"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/stretchr/testify/require"
)

// operatorLab is an agent and a Vault of the test's own, with a task of each driver.
type operatorLab struct {
	*lab.Lab
	vault  *harness.Vault
	allocs map[string]*harness.Alloc // by driver
}

// The operator's commands as an operator uses them: on a terminal, in a pipe and for programs; after a mass revocation, after
// a leak, while the server is away, and with plugins whose agent was killed.
func TestOperatorCommands(t *testing.T) {
	vault, err := shared.NewVault(t.Context(), "vault-operator")
	require.NoError(t, err)
	l := &operatorLab{vault: vault, Lab: newOwnLab(t, harness.AgentOptions{
		Name: "operator", Placement: placement, Vault: vault,
		Secrets: map[string]any{"lease_check_interval": "1h"}, // by themselves they would not find out in time
	}, 12*time.Minute)}
	l.start()

	l.statusIsShown()
	l.refreshAfterRevocation()
	l.refreshOfTen()
	l.rotateOne()
	l.documented()
	l.statusInAnOutage()
	l.agentKilled()
	l.shownEverywhere()
	l.othersAreRefused()
}

func (l *operatorLab) start() {
	require.NoError(l.T, l.vault.EnableDatabase(l.Ctx, "database", l.MariaDB))
	require.NoError(l.T, l.vault.DatabaseRole(l.Ctx, "database", "operator", hour, hour))
	l.PutColour("operator", "red")
	l.AllowLeased("operator", "database/creds/operator", "secret/data/operator")
	var jobs []lab.Job
	drivers := []string{"docker", "raw_exec"}
	for _, driver := range drivers {
		jobs = append(jobs, lab.Job{
			ID: "operator-" + driver, Driver: driver, Role: "operator", Run: []string{"testapp", "sleep"},
			Config: `
        secret "db" {
          path  = "database/creds/operator"
          env   = { DB_USER = "username" }
          splay = "1s"
        }
        secret "colour" {
          path        = "secret/operator"
          env         = { COLOUR = "colour" }
          change_mode = "noop"
        }`,
		})
	}
	l.allocs = map[string]*harness.Alloc{}
	for i, alloc := range l.RunAll(jobs...) {
		l.allocs[drivers[i]] = alloc
		l.Lines(alloc, lab.App, "start ", 1)
	}
}

// program is the one that the agent's plugins run, whatever is built meanwhile.
func (l *operatorLab) program() string {
	l.T.Helper()
	pid, err := l.Agent.PluginPID("docker")
	require.NoError(l.T, err)
	return fmt.Sprintf("/proc/%d/exe", pid)
}

// command runs a command that asks the plugins in a pipe, and gives what it prints and its exit status.
func (l *operatorLab) command(args ...string) (stdout, stderr string, status int) {
	l.T.Helper()
	return l.run(append(args, "-state-dir", l.Agent.StateDir)...)
}

// run is command, for a command with all of its options.
func (l *operatorLab) run(args ...string) (stdout, stderr string, status int) {
	l.T.Helper()
	cmd := exec.CommandContext(l.Ctx, l.program(), args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(l.T, err, &exit, errOut.String())
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func (l *operatorLab) status() (all []control.Report, status int) {
	l.T.Helper()
	stdout, stderr, status := l.command("status", "-json")
	var answer struct{ Plugins []control.Report }
	require.NoError(l.T, json.Unmarshal([]byte(stdout), &answer), "%s%s", stdout, stderr)
	return answer.Plugins, status
}

// secretOf is how a secret of a driver's task stands.
func (l *operatorLab) secretOf(driver, secret string) lifecycle.SecretStatus {
	l.T.Helper()
	all, _ := l.status()
	for _, p := range all {
		for _, task := range p.Tasks {
			for _, s := range task.Secrets {
				if p.Driver == driver && s.Name == secret {
					return s
				}
			}
		}
	}
	require.Fail(l.T, "no such secret", "%s of %s in %+v", secret, driver, all)
	return lifecycle.SecretStatus{}
}

func (l *operatorLab) statusIsShown() {
	l.T.Helper()
	pids := l.Plugins()
	all, status := l.status()
	require.Zero(l.T, status)
	require.Len(l.T, all, 2)
	for i, driver := range []string{"docker", "raw_exec"} {
		require.Equal(l.T, driver, all[i].Driver)
		require.Equal(l.T, pids[driver], all[i].PID)
		require.Zero(l.T, all[i].AgentGone)
		require.Len(l.T, all[i].Config, 8)
		require.Equal(l.T, l.vault.Addr, all[i].Server)
		require.Equal(l.T, l.allocs[driver].ID, all[i].Tasks[0].Alloc)
		require.Equal(l.T, lifecycle.TaskWatched, all[i].Tasks[0].State)
	}
	db := l.secretOf("raw_exec", "db")
	require.Equal(l.T, lifecycle.SecretReady, db.State)
	require.False(l.T, db.NextRenewal.IsZero())
	require.False(l.T, db.Expires.IsZero())

	stdout, _, status := l.command("status")
	require.Zero(l.T, status)
	require.Contains(l.T, stdout, "operator-docker/app")
	require.Contains(l.T, stdout, "database/creds/operator")
}

// Break-glass: all credentials are revoked at once, and one command has every task work again.
func (l *operatorLab) refreshAfterRevocation() {
	l.T.Helper()
	before := l.leases(2)
	require.NoError(l.T, l.vault.Client().Sys().RevokePrefixWithContext(l.Ctx, "database/creds/operator"))
	stdout, stderr, status := l.command("refresh")
	require.Zero(l.T, status, "%s%s", stdout, stderr)
	for _, driver := range []string{"docker", "raw_exec"} {
		require.Regexp(l.T, `operator-`+driver+`/app +\S+ +db +replaced +its lease was revoked; task restarted in place`, stdout)
		require.Regexp(l.T, `operator-`+driver+`/app +\S+ +colour +unchanged`, stdout)
		l.Lines(l.allocs[driver], lab.App, "start ", 2)
		l.NotRestarted(l.allocs[driver], lab.App)
		require.Equal(l.T, "its lease was revoked", l.secretOf(driver, "db").Cause)
	}
	for _, id := range l.leases(2) {
		require.NotContains(l.T, before, id)
	}
}

// refreshOfTen is the same with five tasks of each driver, and says how long it takes until the last is healthy: all secrets ready, and the program at
// work with its new credentials. A job's splay is kept, so that is in it.
func (l *operatorLab) refreshOfTen() {
	l.T.Helper()
	const each, splay = 5, time.Second
	require.NoError(l.T, l.vault.DatabaseRole(l.Ctx, "database", "ten", hour, hour))
	l.AllowLeased("ten", "database/creds/ten")
	var jobs []*harness.Job
	for _, driver := range []string{"docker", "raw_exec"} {
		jobs = append(jobs, l.Submit(lab.Job{
			ID: "ten-" + driver, Driver: driver, Role: "ten", Count: each, Run: []string{"testapp", "sleep"},
			Config: fmt.Sprintf(`secret "db" {
          path  = "database/creds/ten"
          env   = { DB_USER = "username" }
          splay = %q
        }`, splay),
		}.HCL()))
	}
	var allocs []*harness.Alloc
	for _, job := range jobs {
		running, err := job.AllRunning(l.Ctx, each)
		require.NoError(l.T, err)
		allocs = append(allocs, running...)
	}
	for _, alloc := range allocs {
		l.Lines(alloc, lab.App, "start ", 1)
	}
	require.NoError(l.T, l.vault.Client().Sys().RevokePrefixWithContext(l.Ctx, "database/creds/ten"))
	began := time.Now()
	stdout, stderr, status := l.command("refresh", "-secret", "db")
	commanded := time.Since(began)
	require.Zero(l.T, status, "%s%s", stdout, stderr)
	require.Equal(l.T, 2*each, strings.Count(stdout, "its lease was revoked; task restarted in place"), stdout)
	for _, alloc := range allocs {
		l.Lines(alloc, lab.App, "start ", 2)
		l.NotRestarted(alloc, lab.App)
	}
	_, status = l.status()
	require.Zero(l.T, status)
	l.T.Logf("refresh of %d tasks: %s, with a splay of up to %s; all of them healthy after %s", 2*each, commanded, splay, time.Since(began))
	for _, job := range jobs {
		require.NoError(l.T, job.Stop(l.Ctx))
	}
}

// leases waits until the server has n of them, and gives their ids.
func (l *operatorLab) leases(n int) (ids []string) {
	l.T.Helper()
	l.Until(fmt.Sprintf("%d leases", n), func() (err error) {
		if ids, err = l.vault.Leases(l.Ctx, "database/creds/operator"); err == nil && len(ids) != n {
			err = fmt.Errorf("there are %q", ids)
		}
		return err
	})
	return ids
}

// A leak: one task's credential is replaced, and the old one is gone when the command ends.
func (l *operatorLab) rotateOne() {
	l.T.Helper()
	before := l.leases(2)
	alloc := l.allocs["docker"].ID
	stdout, stderr, status := l.command("rotate", "-alloc", alloc[:8], "-secret", "db", "-json")
	require.Zero(l.T, status, "%s%s", stdout, stderr)
	after, err := l.vault.Leases(l.Ctx, "database/creds/operator")
	require.NoError(l.T, err)
	require.Len(l.T, after, 2)
	kept := 0
	for _, id := range after {
		for _, old := range before {
			if id == old {
				kept++
			}
		}
	}
	require.Equal(l.T, 1, kept, "raw_exec's")
	l.Lines(l.allocs["docker"], lab.App, "start ", 3)
	l.Lines(l.allocs["raw_exec"], lab.App, "start ", 2)
	var answer struct{ Plugins []control.Done }
	require.NoError(l.T, json.Unmarshal([]byte(stdout), &answer))
	require.Len(l.T, answer.Plugins[0].Outcomes, 1)
	require.Equal(l.T, lifecycle.Replaced, answer.Plugins[0].Outcomes[0].Result)

	_, stderr, status = l.command("rotate", "-secret", "colour")
	require.Equal(l.T, 1, status)
	require.Contains(l.T, stderr, "no credential was replaced")
	_, stderr, status = l.command("refresh", "-task", "nobody")
	require.Equal(l.T, 1, status)
	require.Contains(l.T, stderr, "no secret of a task that runs here matches")
}

// documented runs the commands of docs/operate.md.
func (l *operatorLab) documented() {
	l.T.Helper()
	page, err := os.ReadFile("../docs/operate.md")
	require.NoError(l.T, err)
	_, section, found := strings.Cut(string(page), "\n## Status, refresh, rotate\n")
	require.True(l.T, found)
	_, block, found := strings.Cut(section, "```sh\n")
	require.True(l.T, found)
	block, _, _ = strings.Cut(block, "```")
	ran := 0
	for line := range strings.Lines(block) {
		line, _, _ = strings.Cut(line, "#")
		args := strings.Fields(strings.ReplaceAll(line, "5a2b", l.allocs["docker"].ID[:4]))
		require.Equal(l.T, []string{"sudo", "nomad-driver-secrets"}, args[:2])
		if strings.Contains(line, "-watch") {
			l.watch(args[2:]...)
		} else {
			stdout, stderr, status := l.command(args[2:]...)
			require.Zero(l.T, status, "%s: %s%s", line, stdout, stderr)
		}
		ran++
	}
	require.Equal(l.T, 4, ran)
}

// watch runs a command until it has printed twice.
func (l *operatorLab) watch(args ...string) {
	l.T.Helper()
	cmd := exec.CommandContext(l.Ctx, l.program(), append(args, "-state-dir", l.Agent.StateDir)...)
	out := &syncBuffer{}
	cmd.Stdout = out
	require.NoError(l.T, cmd.Start())
	l.Until("a second look", func() error {
		if n := strings.Count(out.String(), "DRIVER"); n < 2 {
			return fmt.Errorf("there were %d", n)
		}
		return nil
	})
	require.NoError(l.T, cmd.Process.Signal(os.Interrupt))
	require.NoError(l.T, cmd.Wait())
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// While the server is away status answers, and says so.
func (l *operatorLab) statusInAnOutage() {
	l.T.Helper()
	l.vault.Stop()
	l.Until("the outage to be shown", func() error {
		stdout, _, status := l.command("status")
		if status != 1 || !strings.Contains(stdout, "no answer from vault at "+l.vault.Addr) {
			return fmt.Errorf("exit status %d: %s", status, stdout)
		}
		return nil
	})
	stdout, _, status := l.command("refresh", "-secret", "db")
	require.Equal(l.T, 1, status)
	require.Contains(l.T, stdout, "failed")
	require.NoError(l.T, l.vault.Start(l.Ctx))
	l.Until("the outage to be over", func() error {
		if _, _, status := l.command("refresh"); status != 0 {
			return errors.New("not all is well yet")
		}
		return nil
	})
	l.Until("status to show it", func() error {
		if all, status := l.status(); status != 0 {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
	require.Len(l.T, l.leases(2), 2)
}

// Plugins whose agent was killed say so; one that has started again takes them over.
func (l *operatorLab) agentKilled() {
	l.T.Helper()
	pids := l.Plugins()
	l.Agent.Kill()
	l.Until("the plugins to miss their agent", func() error {
		all, status := l.status()
		for _, p := range all {
			if p.AgentGone.IsZero() || status != 1 {
				return fmt.Errorf("exit status %d: %+v", status, p)
			}
		}
		return nil
	})
	stdout, _, _ := l.command("status")
	require.Contains(l.T, stdout, "no agent is connected to it")
	require.Contains(l.T, stdout, "operator-docker/app")
	ctx, cancel := context.WithTimeout(l.Ctx, 5*time.Minute)
	defer cancel()
	require.NoError(l.T, l.Agent.Start(ctx))
	l.Until("the plugins to have an agent", func() error {
		all, status := l.status()
		if status != 0 || len(all) != 2 {
			return fmt.Errorf("exit status %d: %+v", status, all)
		}
		return nil
	})
	require.Equal(l.T, pids, l.Plugins(), "the agent has taken its plugins over")
}

func (l *operatorLab) othersAreRefused() {
	l.T.Helper()
	dir, err := os.MkdirTemp("", "operator") // t.TempDir is below one of root's
	require.NoError(l.T, err)
	l.T.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(l.T, os.Chmod(dir, 0o755))
	content, err := os.ReadFile(l.program())
	require.NoError(l.T, err)
	require.NoError(l.T, os.WriteFile(dir+"/commands", content, 0o755))
	cmd := exec.CommandContext(l.Ctx, dir+"/commands", "status", "-state-dir", l.Agent.StateDir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: 4242}}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(l.T, err, &exit)
	require.Equal(l.T, 1, exit.ExitCode(), "%s", out)
	require.Contains(l.T, string(out), "permission denied")
}
