package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// setUp writes to Vault as an operator does.
func (l *lab) setUp(path string, data map[string]any) map[string]any {
	l.t.Helper()
	answer, err := l.agent.Vault().Client().Logical().WriteWithContext(l.ctx, path, data)
	require.NoError(l.t, err)
	if answer == nil {
		return nil
	}
	return answer.Data
}

// Two engines that nothing here is made for. What has a lease is renewed, replaced and revoked by it. What
// has none is read once, and never again: who knows what a read makes. Beside them a KV secret is
// polled, so that there are polls to be left out of.
func TestEnginesNotKnown(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	nomad, err := l.NewNomadACL(l.ctx, "nomad-acl")
	require.NoError(t, err)
	t.Cleanup(nomad.Close)
	l.setUp("sys/mounts/generic-nomad", map[string]any{"type": "nomad"})
	l.setUp("generic-nomad/config/access", map[string]any{"address": nomad.Addr, "token": nomad.RootToken})
	l.setUp("generic-nomad/config/lease", map[string]any{"ttl": "20s", "max_ttl": "45s"})
	l.setUp("generic-nomad/role/app", map[string]any{"type": "management"})
	l.setUp("sys/mounts/generic-transit", map[string]any{"type": "transit"})
	l.setUp("generic-transit/keys/app", map[string]any{"exportable": true})
	kv := l.newKV(2, "generic-kv")
	kv.paint("green")
	l.allow("generic", "generic-nomad/creds/app", "generic-transit/export/encryption-key/app", kv.apiPath())
	exported, err := l.Vault.Client().Logical().ReadWithContext(l.ctx, "generic-transit/export/encryption-key/app")
	require.NoError(t, err)
	since, started := l.now()

	alloc := l.runAll(simpleJob{id: "generic", driver: "docker", role: "generic", run: []string{"testapp", "sleep"}, config: `
		secret "nomad" {
			path  = "generic-nomad/creds/app"
			files = true
			splay = "0s"
		}
		secret "transit" {
			path = "generic-transit/export/encryption-key/app"
			file "key" {
				field = "keys.1"
			}
		}
		secret "kv" {
			path = "generic-kv/app"
			env  = { COLOUR = "colour" }
		}`})[0]
	made := func(path string) []harness.Request {
		t.Helper()
		all, err := l.Vault.Requests(since, path)
		require.NoError(t, err)
		return ofJob(all, "generic")
	}
	file := func(name string) string {
		t.Helper()
		content, err := os.ReadFile(filepath.Join(alloc.SecretsDir("app"), name))
		require.NoError(t, err)
		return string(content)
	}
	l.lines(alloc, "app", "start ", 1)
	require.Equal(t, exported.Data["keys"].(map[string]any)["1"], file("key"))
	token := file("nomad/secret_id")
	require.True(t, nomad.Knows(l.ctx, token))

	l.until("its renewal", func() error {
		if len(made("sys/leases/renew")) == 0 {
			return fmt.Errorf("none yet")
		}
		return nil
	})
	kv.settled(since, started, "generic")
	require.Len(t, made("generic-nomad/creds/app"), 1, "a poll, or a renewal, has made a token")
	l.setUp("generic-transit/keys/app/rotate", nil)

	l.lines(alloc, "app", "start ", 2) // the lease is at its maximum
	l.event(alloc, `secret "nomad" rotated (its lease reached its maximum); task restarted in place`)
	next := file("nomad/secret_id")
	require.NotEqual(t, token, next)
	require.True(t, nomad.Knows(l.ctx, next))
	l.until("the old token to be revoked", func() error {
		if nomad.Knows(l.ctx, token) {
			return fmt.Errorf("Nomad knows it")
		}
		return nil
	})
	kv.settled(since, time.Now(), "generic")
	require.Len(t, made("generic-nomad/creds/app"), 2)
	require.Len(t, made("generic-transit/"), 1, "what has no lease is read again")
	l.startedTimes(alloc, 2)

	require.NoError(t, alloc.Job.Stop(l.ctx))
	l.leases("generic-nomad/creds/app", 0)
	left, err := nomad.Tokens(l.ctx)
	require.NoError(t, err)
	require.Zero(t, left, "tokens")
}

// A TOTP code ends in seconds: the task does not start with one. The reason, and what to do instead, is
// in the event, and no code was made.
func TestTOTPCodesAreRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.setUp("sys/mounts/refusetotp", map[string]any{"type": "totp"})
	l.setUp("refusetotp/keys/me", map[string]any{"generate": true, "issuer": "e2e", "account_name": "me"})
	l.allow("refusetotp", "refusetotp/code/me")
	since, _ := l.now()
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			l := newLab(t)
			alloc, err := l.submit(simpleJob{id: "refusetotp-" + driver, driver: driver, role: "refusetotp",
				run: []string{"testapp", "sleep"}, config: `secret "code" {
					path = "refusetotp/code/me"
					env  = { CODE = "code" }
				}`}.hcl()).Failed(l.ctx)
			require.NoError(t, err)
			event := l.event(alloc, "Driver Failure")
			require.Contains(t, event, `secret "code": read refusetotp/code/me: a TOTP code is good for seconds`)
			require.Contains(t, event, "let the task make codes of the key, from a KV secret")
			started, err := alloc.Lines("app", "start ")
			require.NoError(t, err)
			require.Empty(t, started)
			l.noProcess(alloc, "app")
			l.noJournal(alloc)
		})
	}
	made, err := l.Vault.Requests(since, "refusetotp/")
	require.NoError(t, err)
	require.Empty(t, made)
}
