package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// Two engines that nothing here is made for. What has a lease is renewed, replaced and revoked by it. What
// has none is read once, and never again: who knows what a read makes. Beside them a KV secret is
// polled, so that there are polls to be left out of.
func TestEnginesNotKnown(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	nomad, err := l.NewNomadACL(l.Ctx, "nomad-acl")
	require.NoError(t, err)
	t.Cleanup(nomad.Close)
	l.WriteVault("sys/mounts/generic-nomad", map[string]any{"type": "nomad"})
	l.WriteVault("generic-nomad/config/access", map[string]any{"address": nomad.Addr, "token": nomad.RootToken})
	l.WriteVault("generic-nomad/config/lease", map[string]any{"ttl": "20s", "max_ttl": "45s"})
	l.WriteVault("generic-nomad/role/app", map[string]any{"type": "management"})
	l.WriteVault("sys/mounts/generic-transit", map[string]any{"type": "transit"})
	l.WriteVault("generic-transit/keys/app", map[string]any{"exportable": true})
	kv := l.NewKV(2, "generic-kv")
	kv.PutColour("green")
	l.Allow("generic", "generic-nomad/creds/app", "generic-transit/export/encryption-key/app", kv.APIPath())
	exported, err := l.Vault.Client().Logical().ReadWithContext(l.Ctx, "generic-transit/export/encryption-key/app")
	require.NoError(t, err)
	since, started := l.Now()

	alloc := l.RunAll(lab.Job{ID: "generic", Driver: "docker", Role: "generic", Run: []string{"testapp", "sleep"}, Config: `
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
		return lab.OfJob(all, "generic")
	}
	file := func(name string) string {
		t.Helper()
		content, err := os.ReadFile(filepath.Join(alloc.SecretsDir("app"), name))
		require.NoError(t, err)
		return string(content)
	}
	l.Lines(alloc, "app", "start ", 1)
	require.Equal(t, exported.Data["keys"].(map[string]any)["1"], file("key"))
	token := file("nomad/secret_id")
	require.True(t, nomad.Knows(l.Ctx, token))

	l.Until("its renewal", func() error {
		if len(made("sys/leases/renew")) == 0 {
			return fmt.Errorf("none yet")
		}
		return nil
	})
	kv.AwaitPolls(since, started, "generic")
	require.Len(t, made("generic-nomad/creds/app"), 1, "a poll, or a renewal, has made a token")
	l.WriteVault("generic-transit/keys/app/rotate", nil)

	l.Lines(alloc, "app", "start ", 2) // the lease is at its maximum
	l.Event(alloc, `secret "nomad" rotated (its lease reached its maximum); task restarted in place`)
	next := file("nomad/secret_id")
	require.NotEqual(t, token, next)
	require.True(t, nomad.Knows(l.Ctx, next))
	l.Until("the old token to be revoked", func() error {
		if nomad.Knows(l.Ctx, token) {
			return fmt.Errorf("Nomad knows it")
		}
		return nil
	})
	kv.AwaitPolls(since, time.Now(), "generic")
	require.Len(t, made("generic-nomad/creds/app"), 2)
	require.Len(t, made("generic-transit/"), 1, "what has no lease is read again")
	l.StartedTimes(alloc, 2)

	require.NoError(t, alloc.Job.Stop(l.Ctx))
	l.Leases("generic-nomad/creds/app", 0)
	left, err := nomad.Tokens(l.Ctx)
	require.NoError(t, err)
	require.Zero(t, left, "tokens")
}

// A TOTP code ends in seconds: the task does not start with one. The reason, and what to do instead, is
// in the event, and no code was made.
func TestTOTPCodesAreRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.WriteVault("sys/mounts/refusetotp", map[string]any{"type": "totp"})
	l.WriteVault("refusetotp/keys/me", map[string]any{"generate": true, "issuer": "e2e", "account_name": "me"})
	l.Allow("refusetotp", "refusetotp/code/me")
	since, _ := l.Now()
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			l := newLab(t)
			alloc, err := l.Submit(lab.Job{ID: "refusetotp-" + driver, Driver: driver, Role: "refusetotp",
				Run: []string{"testapp", "sleep"}, Config: `secret "code" {
					path = "refusetotp/code/me"
					env  = { CODE = "code" }
				}`}.HCL()).Failed(l.Ctx)
			require.NoError(t, err)
			event := l.Event(alloc, "Driver Failure")
			require.Contains(t, event, `secret "code": read refusetotp/code/me: a TOTP code is good for seconds`)
			require.Contains(t, event, "let the task make codes of the key, from a KV secret")
			started, err := alloc.Lines("app", "start ")
			require.NoError(t, err)
			require.Empty(t, started)
			l.NoProcess(alloc, "app")
			l.NoJournal(alloc)
		})
	}
	made, err := l.Vault.Requests(since, "refusetotp/")
	require.NoError(t, err)
	require.Empty(t, made)
}
