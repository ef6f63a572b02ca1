package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

const sharedAuth = "jwt-nomad"

// C6: the leases of several tasks are revoked by prefix. Each is seen, and heals.
func TestLeasesRevokedByPrefix(t *testing.T) {
	t.Parallel()
	l := newOutageLab(t, shared.Agent, shared.Vault, 2*time.Minute)
	raw := l.Start(sharedAuth, lab.OutageJob{Name: "prefix-raw", Driver: "raw_exec", Count: 2, TTL: time.Hour})
	docker := l.Start(sharedAuth, lab.OutageJob{Name: "prefix-docker", Driver: "docker", Count: 1, TTL: time.Hour})
	since := l.Mark()
	for _, job := range []lab.OutageJob{raw[0].Job, docker[0].Job} {
		require.NoError(t, l.Server.Client().Sys().RevokePrefixWithContext(l.Ctx, "database/creds/"+job.Name))
	}
	for _, task := range append(raw, docker...) {
		l.Recovered(task, 2)
		l.AwaitEvent([]*lab.OutageTask{task}, time.Time{}, "(its lease was revoked); task restarted in place")
	}
	l.OneLeaseEach(raw[0].Job)
	l.OneLeaseEach(docker[0].Job)
	issued, err := l.Server.Requests(since, "database/creds/prefix-")
	require.NoError(t, err)
	require.Len(t, issued, 3)
}

// C6: the engine is disabled, or moved, and the leases with it. A new read cannot heal that: the task
// runs on, and an event says so, once. When the engine is back it heals.
func TestEngineGone(t *testing.T) {
	tests := map[string]func(l *lab.OutageLab, mount string) error{
		"disabled": func(l *lab.OutageLab, mount string) error {
			return l.Server.Client().Sys().UnmountWithContext(l.Ctx, mount)
		},
		"moved": func(l *lab.OutageLab, mount string) error {
			return l.Server.Client().Sys().RemountWithContext(l.Ctx, mount, mount+"-elsewhere")
		},
	}
	for name, lose := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newOutageLab(t, shared.Agent, shared.Vault, 3*time.Minute)
			j := lab.OutageJob{Name: "engine-" + name, Driver: "raw_exec", Count: 1, TTL: time.Hour, Mount: "database-" + name}
			tasks := l.Start(sharedAuth, j)
			since := l.Mark()
			require.NoError(t, lose(l, j.Mount))
			notice := fmt.Sprintf("not rotated: secret \"db\": read %s/creds/%s", j.Mount, j.Name)
			l.AwaitEvent(tasks, time.Time{}, notice)
			answers(l, since, 2, j.Mount+"/", "sys/internal/ui/mounts/"+j.Mount) // it was asked for again, and that was not told
			events, err := tasks[0].EventsSince(l.Ctx, time.Time{}, notice)
			require.NoError(t, err)
			require.Len(t, events, 1)
			l.NotRestarted(tasks[0].Alloc, lab.App)
			starts, err := tasks[0].Alloc.Lines(lab.App, "start ")
			require.NoError(t, err)
			require.Len(t, starts, 1)

			l.ServeCredentials(j)
			l.Recovered(tasks[0], 2)
			l.OneLeaseEach(j)
		})
	}
}

// C6: the engine, the path or the right to read of a static secret is gone. The task keeps what it has,
// and gets one event, however often that is polled; and another when it is lost again.
func TestStaticSecretGone(t *testing.T) {
	policy := `path "%s/data/app" { capabilities = ["read"] }`
	tests := map[string]struct {
		lose, restore func(l *lab.OutageLab, name string) error
	}{
		"engine": {
			lose: func(l *lab.OutageLab, name string) error {
				return l.Server.Client().Sys().UnmountWithContext(l.Ctx, name)
			},
			restore: func(l *lab.OutageLab, name string) error {
				if err := l.Server.EnableKV2(l.Ctx, name); err != nil {
					return err
				}
				return l.Server.PutKV2(l.Ctx, name, "app", map[string]any{"colour": "green"})
			},
		},
		"path": {
			lose: func(l *lab.OutageLab, name string) error {
				return l.Server.Client().KVv2(name).DeleteMetadata(l.Ctx, "app")
			},
			restore: func(l *lab.OutageLab, name string) error {
				return l.Server.PutKV2(l.Ctx, name, "app", map[string]any{"colour": "green"})
			},
		},
		"policy": {
			lose: func(l *lab.OutageLab, name string) error {
				return l.Server.Client().Sys().DeletePolicyWithContext(l.Ctx, name)
			},
			restore: func(l *lab.OutageLab, name string) error {
				return l.Server.Policy(l.Ctx, name, fmt.Sprintf(policy, name))
			},
		},
	}
	for what, test := range tests {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l, name := newOutageLab(t, shared.Agent, shared.Vault, 2*time.Minute), "static-"+what
			require.NoError(t, l.Server.EnableKV2(l.Ctx, name))
			require.NoError(t, l.Server.PutKV2(l.Ctx, name, "app", map[string]any{"colour": "green"}))
			require.NoError(t, l.Server.Policy(l.Ctx, name, fmt.Sprintf(policy, name)))
			require.NoError(t, l.Server.WorkloadRole(l.Ctx, sharedAuth, name, harness.WorkloadRole{Policies: []string{name}, TTL: time.Hour}))
			alloc := l.RunFile("rotate-gone", lab.Vars{"name": name})
			l.Lines(alloc, lab.App, "file ", 1)
			task := &lab.OutageTask{Job: lab.OutageJob{Name: name}, Alloc: alloc, Starts: 1}
			for n := 1; n < 3; n++ {
				at := time.Now()
				require.NoError(t, test.lose(l, name))
				l.AwaitEvent([]*lab.OutageTask{task}, at, `not rotated: secret "kv": read `+name)
				answers(l, l.Mark(), 2, name+"/", "sys/internal/ui/mounts/"+name) // polls since
				told, err := task.EventsSince(l.Ctx, at, "not rotated")
				require.NoError(t, err)
				require.Len(t, told, 1)
				l.Undisturbed([]*lab.OutageTask{task})
				require.NoError(t, test.restore(l, name))
				since := l.Mark()
				l.Until("the secret to be read again", func() error {
					all, err := l.Server.Requests(since, name+"/data/app")
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
			l.Undisturbed([]*lab.OutageTask{task})
		})
	}
}

// answers waits for n answers at one of these paths since a mark, whatever they are: where a mount is
// not there, or not to be seen, it is asked for its type first.
func answers(l *lab.OutageLab, since harness.Mark, n int, paths ...string) {
	l.T.Helper()
	l.Until(fmt.Sprintf("%d requests at %s", n, paths), func() error {
		all, err := l.Server.Requests(since, paths...)
		if err == nil && len(all) < n {
			err = fmt.Errorf("there are %d", len(all))
		}
		return err
	})
}
