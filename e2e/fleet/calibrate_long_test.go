//go:build long

package fleet

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// TestCalibrate measures what a request of each kind takes of a core of a real Vault: the figures of the model.
func TestCalibrate(t *testing.T) {
	v := startVault(t, time.Hour)
	ctx, c := t.Context(), v.connect(t)
	const each = 2000
	toks := make([]secrets.Token, each)
	leases := make([]secrets.LeaseID, each)
	for _, step := range []struct {
		kind lifecycle.RequestKind
		ask  func(i int) error
	}{
		{lifecycle.OperationLogin, func(i int) (err error) {
			toks[i], err = c.Login(ctx, secrets.Login{Mount: "jwt", Role: "app", JWT: secrets.TextValue(v.jwt)})
			return err
		}},
		{readKV, func(i int) error {
			_, err := c.Read(ctx, toks[i], secrets.Request{Path: "kv/job-1/1"})
			return err
		}},
		{lifecycle.OperationRead, func(i int) error {
			a, err := c.Read(ctx, toks[i], secrets.Request{Path: lendsPath})
			leases[i] = a.Lease.ID
			return err
		}},
		{lifecycle.OperationLookupLease, func(i int) error {
			_, err := c.LeaseTTL(ctx, toks[i], "", leases[i])
			return err
		}},
		{lifecycle.OperationRenewLease, func(i int) error {
			_, err := c.Renew(ctx, toks[i], "", leases[i], time.Hour)
			return err
		}},
		{lifecycle.OperationLookupToken, func(i int) error {
			_, err := c.LookupToken(ctx, toks[i], "")
			return err
		}},
		{lifecycle.OperationRenewToken, func(i int) error {
			_, err := c.RenewToken(ctx, toks[i], "")
			return err
		}},
		{lifecycle.OperationRevokeLease, func(i int) error { return c.Revoke(ctx, toks[i], "", leases[i]) }},
		{lifecycle.OperationRevokeToken, func(i int) error { return c.RevokeToken(ctx, toks[i], "") }},
	} {
		began, cpu := time.Now(), v.cpu(t)
		var all sync.WaitGroup
		for w := range 8 {
			all.Go(func() {
				for i := w; i < each; i += 8 {
					if err := step.ask(i); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		took := time.Since(began)
		t.Logf("| %s | %v of a core | %.0f a second |", step.kind, ((v.cpu(t) - cpu) / each).Round(10*time.Microsecond), each/took.Seconds())
	}
}

// cpu is what Vault's process has used.
func (v *realVault) cpu(t *testing.T) time.Duration {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range all {
		line, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(line, []byte(filepath.Join(filepath.Dir(v.LogPath), "vault.hcl"))) {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(filepath.Dir(path), "stat"))
		require.NoError(t, err)
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		user, err := strconv.Atoi(fields[11])
		require.NoError(t, err)
		system, err := strconv.Atoi(fields[12])
		require.NoError(t, err)
		return time.Duration(user+system) * 10 * time.Millisecond // clock ticks
	}
	t.Fatal("Vault's process is not found")
	return 0
}
