package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
)

// S9: while an image is pulled for longer than a lease lives, that is renewed: the first process has the first credential. One that
// cannot be renewed for so long is replaced before the program runs, also in files that the container has bound by then. No
// process is ever refused.
func TestSlowPull(t *testing.T) {
	t.Parallel()
	const pull = 35 * time.Second
	for name, max := range map[string]time.Duration{"slowpull": time.Hour, "slowdead": 30 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			require.NoError(t, l.Vault.EnableDatabase(l.Ctx, "database", l.MariaDB))
			require.NoError(t, l.Vault.DatabaseRole(l.Ctx, "database", name, 15*time.Second, max))
			l.AllowLeased(name, "database/creds/"+name)
			registry, err := l.NewRegistry(l.Ctx, "registry-"+name)
			require.NoError(t, err)
			proxy, err := harness.NewFaultProxy(nil, "http://"+registry.Addr)
			require.NoError(t, err)
			t.Cleanup(proxy.Close)
			image, err := l.Images.Variant(l.Ctx, name, `ENV RELEASE=1`)
			require.NoError(t, err)
			ref, err := registry.Push(l.Ctx, image, name+":1")
			require.NoError(t, err)
			ref = registry.Through(strings.TrimPrefix(proxy.Addr, "http://"), ref)
			proxy.Break(harness.Fault{Delay: pull, Path: "/manifests/", Times: 1})

			mark, began := l.Mark(), time.Now()
			alloc := l.RunFile("slow-pull", lab.Vars{"name": name, "image": ref, "user": registry.User, "password": registry.Password})
			require.GreaterOrEqual(t, time.Since(began), pull, "the image was there at once")
			l.Lines(alloc, lab.App, "login user=", 1)
			read, err := l.Vault.Requests(mark, "database/creds/"+name)
			require.NoError(t, err)
			if max > pull {
				require.Len(t, read, 1, "the credential was replaced")
				l.Leases("database/creds/"+name, 1)
			} else {
				l.Event(alloc, `Secrets: secret "db": the credential ended before the task's program ran, and was replaced`)
			}
			refused, err := alloc.Lines(lab.App, "refused ")
			require.NoError(t, err)
			require.Empty(t, refused)
			l.NotRestarted(alloc, lab.App)
		})
	}
}

// A secret's file, and a directory of them, are bound into the container by their names, whatever the operator's volumes say:
// they are there before it is, and its user's. A rotation gives the new container the new ones.
func TestFilesBoundByName(t *testing.T) {
	t.Parallel()
	for name, confined := range map[string]bool{"bound": false, "bound-confined": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			if confined {
				l = newOwnLab(t, harness.AgentOptions{Name: name, Placement: placement, Confined: true}, lab.DefaultTimeout)
			}
			l.PutColour(name, "green")
			l.AllowLeased(name, "secret/data/"+name)
			alloc := l.RunFile("bound-by-name", lab.Vars{"name": name})
			l.Lines(alloc, "web", "conf=colour green tls=green own=colour green", 1)
			require.Equal(t, []string{" 400", " 400"}, l.Lines(alloc, "web", "4321", 2))
			if confined { // one is enough to see a rotation
				return
			}
			l.PutColour(name, "blue")
			l.Lines(alloc, "web", "conf=colour blue tls=blue own=colour blue", 1)
			l.Lines(alloc, "web", "4321", 4)
			l.NotRestarted(alloc, "web")
		})
	}
}

// An agent that is told to stop while a start waits for the secrets server stops; the next agent starts the task.
func TestAgentStopsWhileAStartWaits(t *testing.T) {
	t.Parallel()
	proxy, err := harness.NewFaultProxy(nil, shared.Vault.Addr)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	l := newOwnLab(t, harness.AgentOptions{
		Name: "stops", Placement: placement, Secrets: map[string]any{"address": proxy.Addr, "start_timeout": "1h"},
	}, lab.DefaultTimeout)
	l.PutColour("outage-start", "green")
	l.AllowLeased("outage-start", "secret/data/outage-start")
	proxy.Refuse()
	job := l.SubmitFile("outage-start", lab.Vars{"name": "agent-stops", "ttl": "1h"})
	alloc := l.FirstAlloc(job)
	l.Event(alloc, "Secrets: the start waits, and tries again until")
	l.Agent.Stop()
	logged := func(text string) error {
		b, err := os.ReadFile(l.Agent.LogPath)
		if err == nil && !strings.Contains(string(b), text) {
			err = fmt.Errorf("the agent's log does not say %q", text)
		}
		return err
	}
	require.NoError(t, errors.Join(logged("gave up waiting, since the Nomad agent stops"), logged("shutdown complete")))
	require.NoError(t, proxy.Accept())
	require.NoError(t, l.Agent.Start(l.Ctx))
	l.Lines(alloc, lab.App, `file secrets/kv/colour "green"`, 1)
}
