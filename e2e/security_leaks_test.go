package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/leakscan"
	"github.com/stretchr/testify/require"
)

// leakTask has secrets in every way that there is: env, files, template, change_script, leased, a live directory.
const leakTask = `
    task "%[1]s" {
      driver = "%[1]s"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      identity {
        env      = true
        file     = true
        filepath = "private/nomad.jwt"
      }
      config {
        %[2]s
        command = "testapp"
        args    = ["sleep"]
        role    = "leak"
        splay   = "0s"
        stagger = "0s"
        secret "env" {
          path = "secret/leak-env"
          env  = { VALUE = "value" }
        }
        secret "files" {
          path        = "secret/leak-files"
          files       = true
          change_mode = "noop"
        }
        secret "conf" {
          path          = "secret/leak-conf"
          change_mode   = "signal"
          change_signal = "SIGHUP"
          file "app.conf" {
            template = "value = {{ .value | quote }}\n"
          }
        }
        secret "script" {
          path        = "secret/leak-script"
          env         = { SCRIPT = "value" }
          change_mode = "script"
          change_script {
            command = "/bin/sh"
            args    = ["-c", "printf %%s \"$SCRIPT\" | sha256sum >> $NOMAD_ALLOC_DIR/script-%[1]s"]
          }
        }
        secret "nomad" {
          provider    = "nomad"
          path        = "nomad/jobs/leak"
          change_mode = "noop"
          env         = { VARIABLE = "password" }
          file "nomad.txt" {
            field = "password"
          }
        }
        secret "live" {
          path     = "secret/leak-live"
          live_dir = "%[3]s"
        }
        secret "db" {
          path = "database/creds/leak"
          env  = { DB_USER = "username", DB_PASSWORD = "password" }
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }`

// leakExposed is a task that asks for Nomad's token.
const leakExposed = `
    task "exposed" {
      driver = "docker"
      vault {
        role = "leak"
      }
      config {
        image        = "${meta.image}"
        command      = "testapp"
        args         = ["sleep"]
        expose_token = true
        secret "env" {
          path        = "secret/leak-env"
          env         = { VALUE = "value" }
          change_mode = "noop"
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }`

// leakFails are tasks that cannot start: what their errors say is everywhere. The first's would quote
// a value if text/template had its way; the second's secrets were handed over already.
var leakFails = map[string]string{
	"template": `command = "testapp"
        secret "fails" {
          path = "secret/leak-fails"
          file "x" { template = "{{ range .value }}{{ end }}{{ .value.x }}" }
        }`,
	"command": `command = "/no/such/program"
        secret "fails" {
          path = "secret/leak-fails"
          env  = { VALUE = "value" }
          files = true
        }`,
	"field": `command = "testapp"
        secret "fails" {
          path = "secret/leak-fails"
          env  = { VALUE = "value", OTHER = "not.there" }
        }`,
}

// A secret's value is in none of the places that docs/guarantees.md names (Leaks), at any moment of a task's life
// (L1, L2, L4). TestScanSees shows that the same search finds today's leaks.
func TestNoLeaks(t *testing.T) {
	t.Parallel()
	h := newLeakSearch(t, harness.AgentOptions{Name: "leak", Placement: harness.InPlace, LogLevel: "trace"})
	require.NoError(t, h.Vault.EnableDatabase(h.Ctx, "database", h.MariaDB))
	require.NoError(t, h.Vault.DatabaseRole(h.Ctx, "database", "leak", time.Hour, 2*time.Hour))
	secrets := []string{"env", "files", "conf", "script", "live", "fails"}
	values := map[string]string{}
	for _, name := range secrets {
		values[name] = h.Put("leak-"+name, name+", first")
	}
	values["nomad"] = h.PutSecretVariable("nomad/jobs/leak", "nomad, first")
	h.AllowLeased("leak", append(each("secret/data/leak-", secrets), "database/creds/leak")...)

	alloc := h.Run(fmt.Sprintf("job \"leak\" {\n  group \"g\" {%s%s%s\n  }\n}",
		fmt.Sprintf(leakTask, "docker", `image = "${meta.image}"`, "/run/live"), fmt.Sprintf(leakTask, "raw_exec", "", "live/app"), leakExposed))
	tasks := []string{"docker", "raw_exec"}
	for _, task := range append(tasks, "exposed") {
		h.Lines(alloc, task, "start ", 1)
	}
	h.LearnJournal()
	token, err := os.ReadFile(alloc.Dir("exposed", "private", "vault_token"))
	require.NoError(t, err)
	h.Learn("exposed's token", strings.TrimSpace(string(token)))
	for _, task := range tasks {
		h.ExecSees(alloc, task, "VALUE", values["env"])
		h.ExecSees(alloc, task, "VARIABLE", values["nomad"])
	}
	h.ExecSees(alloc, "exposed", "VAULT_TOKEN", strings.TrimSpace(string(token)))
	liveHas(h, alloc, values["live"])
	h.Clean("after the start", alloc)

	// That nothing is found means something only if each place was really looked at: the id of the
	// allocation is no secret, and is in all of them.
	h.SeesEverywhere(alloc)

	// A script, then a signal, then a restart; each by itself, for several at once are one (C7).
	values["script"] = h.Put("leak-script", "script, second")
	for _, task := range tasks {
		h.Contains(alloc.Dir("alloc", "script-"+task), sum(values["script"]))
		// The process itself has the old one.
		h.ExecSees(alloc, task, "SCRIPT", values["script"])
	}
	values["conf"] = h.Put("leak-conf", "conf, second")
	for _, task := range tasks {
		h.Contains(alloc.Dir(task, "secrets", "app.conf"), strings.Split(values["conf"], `"`)[0])
	}
	values["nomad"] = h.PutSecretVariable("nomad/jobs/leak", "nomad, second")
	for _, task := range tasks {
		h.Contains(alloc.Dir(task, "secrets", "nomad.txt"), values["nomad"])
	}
	values["files"] = h.Put("leak-files", "files, second")
	values["env"] = h.Put("leak-env", "env, second")
	for _, task := range tasks {
		h.Lines(alloc, task, "start ", 2)
		h.ExecSees(alloc, task, "VALUE", values["env"])
		h.Contains(alloc.Dir(task, "secrets", "files", "value"), values["files"])
	}
	h.ExecSees(alloc, "exposed", "VALUE", values["env"]) // noop: its process has the first
	values["live"] = h.Put("leak-live", "live, second")
	liveHas(h, alloc, values["live"])
	h.LearnJournal()
	h.Clean("after rotations", alloc)

	failed := failedStarts(h)
	h.Clean("after failed starts", append(failed, alloc)...)

	crash(h, alloc, tasks)
	liveHas(h, alloc, values["live"])
	h.Clean("after a crash of the plugins", append(failed, alloc)...)

	require.NoError(t, h.Agent.Restart(h.Ctx))
	h.Record()
	for _, task := range tasks {
		h.ExecSees(alloc, task, "VALUE", values["env"])
		require.Len(t, h.Lines(alloc, task, "start ", 2), 2, "an agent's restart starts nothing (C4)")
	}
	h.Clean("after the agent's restart", append(failed, alloc)...)

	for _, job := range h.Jobs {
		require.NoError(t, job.Stop(h.Ctx))
	}
	h.Clean("after the stop", append(failed, alloc)...)
	// What recovery needed is needed no more.
	h.Until("the journal to be empty of values", func() error {
		return lab.NoHits(h.Scan(leakscan.Tree("journal", h.Agent.JournalDir(), leakscan.TreeOptions{})))
	})
}

// liveHas waits until the live directories of both tasks have a value.
func liveHas(h *lab.LeakSearch, alloc *harness.Alloc, value string) {
	h.T.Helper()
	h.Contains(alloc.Dir("raw_exec", "secrets", "live", "app", "value"), value)
	h.Until("the container's live directory", func() error {
		out, _, err := alloc.Exec(h.Ctx, "docker", "cat", "/run/live/value")
		if err == nil && out != value {
			err = errors.New("it is another value")
		}
		return err
	})
}

// failedStarts runs jobs that cannot start, on both drivers, until they have failed.
func failedStarts(h *lab.LeakSearch) []*harness.Alloc {
	h.T.Helper()
	var groups strings.Builder
	for name, config := range leakFails {
		for driver, image := range map[string]string{"docker": `image = "${meta.image}"`, "raw_exec": ""} {
			fmt.Fprintf(&groups, `
  group "%[1]s-%[2]s" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task "fails" {
      driver = "%[2]s"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        %[3]s
        role = "leak"
        %[4]s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }`, name, driver, image, config)
		}
	}
	job := h.Submit(fmt.Sprintf("job \"leak-fails\" {%s\n}", groups.String()))
	var allocs []*harness.Alloc
	h.Until("all groups to fail", func() (err error) {
		if allocs, err = job.Allocs(h.Ctx); err != nil {
			return err
		}
		failed := 0
		for _, alloc := range allocs {
			if info, err := alloc.Info(h.Ctx); err == nil && info.ClientStatus == "failed" {
				failed++
			}
		}
		if want := 2 * len(leakFails); failed != want {
			return fmt.Errorf("%d of %d have failed", failed, want)
		}
		return nil
	})
	return allocs
}

// crash has the Go runtime print every goroutine's stack, as a panic does with GOTRACEBACK=all, and
// end the plugins. Nomad puts what a plugin prints into its own log.
func crash(h *lab.LeakSearch, alloc *harness.Alloc, tasks []string) {
	h.T.Helper()
	before := strings.Count(agentLog(h), "SIGQUIT: quit")
	for _, task := range tasks {
		pid, err := h.Agent.PluginPID(task)
		require.NoError(h.T, err)
		require.NoError(h.T, syscall.Kill(pid, syscall.SIGQUIT))
		h.Until("another "+task+" plugin", func() error {
			now, err := h.Agent.PluginPID(task)
			if err == nil && now == pid {
				err = errors.New("it is still there")
			}
			return err
		})
		// The tasks are there again, and their secrets known.
		h.Until("exec in "+task, func() error {
			out, code, err := alloc.Exec(h.Ctx, task, "sh", "-c", "printf %s \"$VALUE\"")
			if err == nil && (code != 0 || out == "") {
				err = fmt.Errorf("exit code %d", code)
			}
			return err
		})
	}
	log := agentLog(h)
	require.Equal(h.T, before+len(tasks), strings.Count(log, "SIGQUIT: quit"), "the plugins print why they ended")
	require.Contains(h.T, log, "driver.(*task).watch", "the plugins print where their goroutines were")
}

func agentLog(h *lab.LeakSearch) string {
	log, err := os.ReadFile(h.Agent.LogPath)
	require.NoError(h.T, err)
	return string(log)
}

// leakControl is how a job gets an environment secret with Nomad alone.
const leakControl = `
    task "%[1]s" {
      driver = "%[1]s"
      vault {
        role = "leak-control"
      }
      template {
        data        = "VALUE={{ with secret \"secret/leak-%[1]s\" }}{{ .Data.data.value | toJSON }}{{ end }}"
        destination = "secrets/env"
        env         = true
      }
      config {
        %[2]s
        command = "testapp"
        args    = ["sleep"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }`

// The scan of TestNoLeaks sees: with Nomad's own drivers it finds the values where they are today.
func TestScanSees(t *testing.T) {
	t.Parallel()
	h := newLeakSearch(t, harness.AgentOptions{Name: "leak-control", Placement: harness.BuiltIn, LogLevel: "trace"})
	h.Put("leak-docker", "docker's")
	h.Put("leak-raw_exec", "raw_exec's")
	h.AllowLeased("leak-control", "secret/data/leak-docker", "secret/data/leak-raw_exec")
	alloc := h.Run(fmt.Sprintf("job \"leak-control\" {\n  group \"g\" {%s%s\n  }\n}",
		fmt.Sprintf(leakControl, "docker", `image = "${meta.image}"`), fmt.Sprintf(leakControl, "raw_exec", "")))
	h.Lines(alloc, "docker", "start ", 1)
	h.Lines(alloc, "raw_exec", "start ", 1)

	report := h.Scan(h.Sources(alloc)...)
	container, err := alloc.Container(h.Ctx, "docker")
	require.NoError(t, err)
	for what, want := range map[string]struct{ canary, place string }{
		"docker inspect":                 {"docker's", "docker inspect"},
		"the container's config on disk": {"docker's", "/containers/" + container.ID + "/config.v2.json"},
		"containerd's metadata":          {"docker's", "/io.containerd.metadata.v1.bolt/meta.db"},
		"the container's run directory":  {"docker's", "/" + container.ID + "/config.json"},
		"Nomad's state.db":               {"raw_exec's", "/state.db"},
	} {
		require.True(t, lab.Found(report, want.canary, want.place), "%s is not among what was found:\n%s", what, lab.HitLines(report.Hits))
	}
}

func each(prefix string, names []string) []string {
	var all []string
	for _, name := range names {
		all = append(all, prefix+name)
	}
	return all
}

func sum(value string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(value))) }
