package fleet

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// realVault is a Vault that lends: its engine for Nomad makes ACL tokens, at a server that only says yes. So the work is
// Vault's own.
type realVault struct {
	*harness.Vault
	jwt string
}

func startVault(t testing.TB, ttl time.Duration) *realVault {
	t.Helper()
	ctx := t.Context()
	cluster, err := harness.StartVault(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cluster.Close()) })
	v := &realVault{Vault: cluster.Vault}

	write := func(path string, data map[string]any) {
		t.Helper()
		_, err := v.Client().Logical().WriteWithContext(ctx, path, data)
		require.NoError(t, err, path)
	}
	require.NoError(t, v.Client().Sys().MountWithContext(ctx, "lends", &api.MountInput{Type: "nomad"}))
	write("lends/config/access", map[string]any{"address": startLender(t), "token": "t", "max_token_name_length": 60})
	write("lends/config/lease", map[string]any{"ttl": ttl.String(), "max_ttl": "100h"})
	write("lends/role/app", map[string]any{"policies": "app"})
	require.NoError(t, v.EnableKV2(ctx, "kv"))
	for job := range 10 {
		for i := range staticEach {
			require.NoError(t, v.PutKV2(ctx, "kv", fmt.Sprintf("job-%d/%d", job, i), map[string]any{"password": "p"}))
		}
	}
	require.NoError(t, v.Policy(ctx, "app", `
path "kv/data/*" { capabilities = ["read"] }
path "lends/creds/app" { capabilities = ["read"] }
path "sys/leases/*" { capabilities = ["update"] }`))

	identities, err := v.EnableJWT(ctx, "jwt", "app", map[string]any{"token_policies": []string{"app"}, "token_ttl": "1h"})
	require.NoError(t, err)
	v.jwt, err = identities.JWT(time.Hour)
	require.NoError(t, err)

	return v
}

// connect is a plugin's connection to it.
func (v *realVault) connect(t testing.TB) *vault.Client {
	t.Helper()
	c, err := vault.New(vault.Config{Address: v.Addr})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// alive is how many leases Vault has.
func (v *realVault) alive(t testing.TB) int {
	t.Helper()
	s, err := v.Client().Logical().ListWithContext(t.Context(), "sys/leases/lookup/"+lendsPath)
	require.NoError(t, err)
	if s == nil {
		return 0
	}
	return len(s.Data["keys"].([]any))
}

// C3, C6, C11: some nodes at a real Vault start, run, get through its restart and a mass revocation.
func TestFleetAtVault(t *testing.T) {
	t.Parallel()
	v, c := startVault(t, atVault.leaseTTL), &counts{}
	f := newFleet(t, atVault, func() server { return counted{v.connect(t), c} }, v.jwt)
	defer f.close()
	phase := func(name string, of func()) {
		t.Helper()
		c.reset()
		began := time.Now()
		of()
		t.Logf("%s", c.table(name, int(time.Since(began)/time.Second)+1, 1))
	}
	phase("cold start", func() { f.start(t.Context()) })
	require.Zero(t, f.failed.Load(), "starts failed")
	require.Equal(t, atVault.leases(), v.alive(t))

	phase("running", func() { time.Sleep(atVault.runs) }) // what is looked at is a while
	require.Zero(t, f.late())

	ctx := t.Context()
	phase("outage", func() {
		v.Kill()
		time.Sleep(atVault.away)
	})
	phase("after the outage", func() {
		require.NoError(t, v.Start(ctx))
		v.awaitAnswered(t, f, c)
	})
	require.Zero(t, f.restarts.Load())
	require.Equal(t, atVault.leases(), v.alive(t))

	phase("after a mass revocation", func() {
		v.revokeAll(t)
		require.Eventually(t, func() bool { return f.restarts.Load() >= int64(atVault.nodes*atVault.tasks) && f.late() == 0 },
			3*time.Minute+3*atVault.check, time.Second)
		require.Eventually(t, func() bool { return v.alive(t) == atVault.leases() }, 3*time.Minute, time.Second)
	})
	require.Zero(t, f.failed.Load(), "starts failed")
}

// revokeAll revokes all leases, in one request. Those of a large fleet take minutes.
func (v *realVault) revokeAll(t testing.TB) {
	t.Helper()
	c, err := v.ClientWithToken(v.RootToken)
	require.NoError(t, err)
	c.SetClientTimeout(20 * time.Minute)
	began := time.Now()
	require.NoError(t, c.Sys().RevokeWithOptionsWithContext(t.Context(), &api.RevokeOptions{LeaseID: lendsPath, Prefix: true}))
	t.Logf("Vault took %s for the revocation's request", time.Since(began).Round(time.Second))
}

// awaitAnswered waits until half of the leases have been renewed or looked up, and all secrets are ready.
func (v *realVault) awaitAnswered(t testing.TB, f *fleet, c *counts) {
	t.Helper()
	require.Eventually(t, func() bool {
		return c.total(lifecycle.OperationRenewLease, lifecycle.OperationLookupLease) >= f.shape.leases()/2 && f.late() == 0
	}, time.Minute+f.shape.check, 100*time.Millisecond)
}
