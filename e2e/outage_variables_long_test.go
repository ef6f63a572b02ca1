//go:build long

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
)

// All of Nomad's servers are away for ten minutes. Tasks with Nomad Variables run on (C3); those that Nomad starts again meanwhile wait, fail
// recoverably, and come up by themselves when the servers are back (S2). So do those whose identity ends before that.
func TestLongOutageOfNomadsServers(t *testing.T) {
	t.Parallel()
	l := variablesLab{newOwnLab(t, harness.AgentOptions{Name: "away", Placement: harness.InPlace, ACL: true}, 20*time.Minute)}
	const ends = `
      identity {
        name     = "variables"
        aud      = ["nomadproject.io"]
        file     = true
        filepath = "private/nomad.jwt"
        ttl      = "2m"
      }`
	var kept []lab.KeptTask
	var waits []*harness.Alloc
	for _, driver := range []string{"docker", "raw_exec"} {
		pid := map[string]string{"docker": "/local/pid", "raw_exec": "pid"}[driver]
		for kind, identity := range map[string]string{"": "", "-ends": ends} {
			for _, what := range []string{"kept", "waits"} {
				id := what + kind + "-" + driver
				l.PutVariable("default", "nomad/jobs/"+id, "first")
				alloc := l.start(variableTask{id: id, driver: driver, identity: identity, run: fmt.Sprintf(`"-pidfile", %q, "sleep"`, pid), restarts: 30})
				if what == "kept" {
					kept = append(kept, lab.KeptTask{Alloc: alloc, Task: lab.App, Driver: driver, Process: l.ProcessOf(alloc, lab.App, driver)})
				} else {
					waits = append(waits, alloc)
				}
			}
		}
	}
	var processes []string
	for _, alloc := range waits {
		processes = append(processes, l.ProcDir(alloc, lab.App))
	}

	l.Agent.StopServer()
	from := time.Now()
	pass(l.Lab, 4*time.Minute) // by then the identities have ended
	for _, process := range processes {
		var pid int
		_, err := fmt.Sscan(filepath.Base(process), &pid)
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL)) // Nomad starts the task again
	}
	pass(l.Lab, 10*time.Minute-time.Since(from))
	require.NoError(t, l.Agent.StartServer(l.Ctx))
	back := time.Now()

	for _, alloc := range waits {
		l.Until("the task of "+alloc.Job.ID+" that waited to run", func() error {
			state, err := alloc.State(l.Ctx, lab.App)
			if err == nil && (state.State != "running" || state.Restarts < 2) { // its process ended, and at least one start waited in vain
				err = fmt.Errorf("it is %s after %d restarts", state.State, state.Restarts)
			}
			return err
		})
		l.Lines(alloc, lab.App, "start ", 2)
		t.Logf("%s is up %v after the servers were back", alloc.Job.ID, time.Since(back).Round(time.Second))
	}
	l.AllKept(kept)
	for _, k := range kept {
		l.Event(k.Alloc, `provider "nomad" reachable again`)
		events, err := k.Alloc.Events(l.Ctx, lab.App)
		require.NoError(t, err)
		require.NotContains(t, strings.Join(events, "\n"), "not rotated")
		l.PutVariable("default", "nomad/jobs/"+k.Alloc.Job.ID, "second")
		l.Gets(k.Alloc, "app", "second")
	}
	l.AllKept(kept)
	l.StopJobs()
	l.JournalEmpty()
}

// A data_dir so deep that Nomad makes no socket of the task API for any task: the start says so, with the length, and how to do without. With
// an agent's address in the plugin's options it comes up.
func TestLongDataDir(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("deep-", 12) + "dir"
	l := variablesLab{newOwnLab(t, harness.AgentOptions{Name: deep, Placement: harness.InPlace, ACL: true}, 5*time.Minute)}
	l.PutVariable("default", "nomad/jobs/socketless", "first")
	job := variableTask{id: "socketless", driver: "docker"}
	alloc, err := l.Submit(job.hcl()).Failed(l.Ctx)
	require.NoError(t, err)
	path := filepath.Join(alloc.SecretsDir(lab.App), "api.sock")
	require.Greater(t, len(path), 107)
	l.Event(alloc, fmt.Sprintf("would have a path of %d bytes, and 107 is the limit", len(path)))

	config := clientConfig(l.Lab)
	content, err := os.ReadFile(config)
	require.NoError(t, err)
	with := strings.ReplaceAll(string(content), "    secrets {\n", fmt.Sprintf("    secrets {\n      nomad {\n        address = %q\n      }\n", l.Agent.Addr))
	require.NotEqual(t, string(content), with)
	require.NoError(t, os.WriteFile(config, []byte(with), 0o600))
	require.NoError(t, l.Agent.Restart(l.Ctx))
	job.id = "with-address"
	l.PutVariable("default", "nomad/jobs/with-address", "first")
	up := l.start(job)
	l.Gets(up, "app", "first")
	l.PutVariable("default", "nomad/jobs/with-address", "second")
	l.Gets(up, "app", "second")
	l.NotRestarted(up, lab.App)
}
