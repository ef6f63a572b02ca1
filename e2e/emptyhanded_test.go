package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

const sharedAuth = "jwt-nomad"

// C6: the leases of several tasks are revoked by prefix. Each is seen, and heals.
func TestLeasesRevokedByPrefix(t *testing.T) {
	t.Parallel()
	l := newKeptLab(t, shared.Agent, shared.Vault, 2*time.Minute)
	raw := l.keep(sharedAuth, keptJob{name: "prefix-raw", driver: "raw_exec", count: 2, ttl: time.Hour})
	docker := l.keep(sharedAuth, keptJob{name: "prefix-docker", driver: "docker", count: 1, ttl: time.Hour})
	since := l.mark()
	for _, job := range []keptJob{raw[0].job, docker[0].job} {
		require.NoError(t, l.vault.Client().Sys().RevokePrefixWithContext(l.ctx, "database/creds/"+job.name))
	}
	for _, task := range append(raw, docker...) {
		l.healed(task, 2)
		l.said([]*keptTask{task}, time.Time{}, "(its lease was revoked); task restarted in place")
	}
	l.oneLeaseEach(raw[0].job)
	l.oneLeaseEach(docker[0].job)
	minted, err := l.vault.Requests(since, "database/creds/prefix-")
	require.NoError(t, err)
	require.Len(t, minted, 3)
}

// C6: the engine is disabled, or moved, and the leases with it. A new read cannot heal that: the task
// runs on, and an event says so, once. When the engine is back it heals.
func TestEngineGone(t *testing.T) {
	tests := map[string]func(l *keptLab, mount string) error{
		"disabled": func(l *keptLab, mount string) error {
			return l.vault.Client().Sys().UnmountWithContext(l.ctx, mount)
		},
		"moved": func(l *keptLab, mount string) error {
			return l.vault.Client().Sys().RemountWithContext(l.ctx, mount, mount+"-elsewhere")
		},
	}
	for name, lose := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newKeptLab(t, shared.Agent, shared.Vault, 3*time.Minute)
			j := keptJob{name: "engine-" + name, driver: "raw_exec", count: 1, ttl: time.Hour, mount: "database-" + name}
			tasks := l.keep(sharedAuth, j)
			since := l.mark()
			require.NoError(t, lose(l, j.mount))
			notice := fmt.Sprintf("not rotated: secret \"db\": read %s/creds/%s", j.mount, j.name)
			l.said(tasks, time.Time{}, notice)
			l.answers(since, 2, j.mount+"/", "sys/internal/ui/mounts/"+j.mount) // it was asked for again, and that was not told
			events, err := tasks[0].events(l.ctx, time.Time{}, notice)
			require.NoError(t, err)
			require.Len(t, events, 1)
			l.runsOn(tasks[0])
			starts, err := tasks[0].alloc.Lines(keptApp, "start ")
			require.NoError(t, err)
			require.Len(t, starts, 1)

			l.serve(j)
			l.healed(tasks[0], 2)
			l.oneLeaseEach(j)
		})
	}
}

// C6: the engine, the path or the right to read of a static secret is gone. The task keeps what it has,
// and is told once, however often it is polled; and again when it is lost again.
func TestStaticSecretGone(t *testing.T) {
	policy := `path "%s/data/app" { capabilities = ["read"] }`
	tests := map[string]struct {
		lose, restore func(l *keptLab, name string) error
		text          string
	}{
		"engine": {
			lose: func(l *keptLab, name string) error { return l.vault.Client().Sys().UnmountWithContext(l.ctx, name) },
			restore: func(l *keptLab, name string) error {
				if err := l.vault.EnableKV2(l.ctx, name); err != nil {
					return err
				}
				return l.vault.PutKV2(l.ctx, name, "app", map[string]any{"colour": "green"})
			},
		},
		"path": {
			lose: func(l *keptLab, name string) error {
				return l.vault.Client().KVv2(name).DeleteMetadata(l.ctx, "app")
			},
			restore: func(l *keptLab, name string) error {
				return l.vault.PutKV2(l.ctx, name, "app", map[string]any{"colour": "green"})
			},
		},
		"policy": {
			lose: func(l *keptLab, name string) error {
				return l.vault.Client().Sys().DeletePolicyWithContext(l.ctx, name)
			},
			restore: func(l *keptLab, name string) error { return l.vault.Policy(l.ctx, name, fmt.Sprintf(policy, name)) },
		},
	}
	for what, test := range tests {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l, name := newKeptLab(t, shared.Agent, shared.Vault, 2*time.Minute), "static-"+what
			require.NoError(t, l.vault.EnableKV2(l.ctx, name))
			require.NoError(t, l.vault.PutKV2(l.ctx, name, "app", map[string]any{"colour": "green"}))
			require.NoError(t, l.vault.Policy(l.ctx, name, fmt.Sprintf(policy, name)))
			require.NoError(t, l.vault.WorkloadRole(l.ctx, sharedAuth, name, harness.WorkloadRole{Policies: []string{name}, TTL: time.Hour}))
			alloc := l.run(fmt.Sprintf(`
job %[1]q {
  group "g" {
    task "app" {
      driver = "raw_exec"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        command = "testapp"
        args    = ["sighup", "secrets/kv/colour"]
        role    = %[1]q
        secret "kv" {
          path  = "%[1]s/app"
          files = true
          splay = "0s"
        }
      }
    }
  }
}`, name))
			l.lines(alloc, keptApp, "file ", 1)
			task := &keptTask{job: keptJob{name: name}, alloc: alloc, starts: 1}
			for n := 1; n < 3; n++ {
				at := time.Now()
				require.NoError(t, test.lose(l, name))
				l.said([]*keptTask{task}, at, `not rotated: secret "kv": read `+name)
				l.answers(l.mark(), 2, name+"/", "sys/internal/ui/mounts/"+name) // polls since
				told, err := task.events(l.ctx, at, "not rotated")
				require.NoError(t, err)
				require.Len(t, told, 1)
				l.undisturbed([]*keptTask{task})
				require.NoError(t, test.restore(l, name))
				since := l.mark()
				l.until("the secret to be read again", func() error {
					all, err := l.vault.Requests(since, name+"/data/app")
					good := 0
					for _, r := range all {
						if r.Error == "" {
							good++
						}
					}
					if err == nil && good < 3 {
						err = fmt.Errorf("it was read %d times", good)
					}
					return err
				})
			}
			l.undisturbed([]*keptTask{task})
		})
	}
}

// answers waits for n answers at one of these paths since a mark, whatever they are: where a mount is
// not there, or not to be seen, it is asked for its type first.
func (l *keptLab) answers(since harness.Mark, n int, paths ...string) {
	l.t.Helper()
	l.until(fmt.Sprintf("%d requests at %s", n, paths), func() error {
		all, err := l.vault.Requests(since, paths...)
		if err == nil && len(all) < n {
			err = fmt.Errorf("there are %d", len(all))
		}
		return err
	})
}
