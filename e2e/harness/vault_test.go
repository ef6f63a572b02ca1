package harness_test

import (
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// The task logs in to Vault with its identity, through Nomad's own vault block, so that a failure of
// the servers' trust in each other is not taken for one of the plugin.
func TestVaultTrustsNomad(t *testing.T) {
	l := newLab(t)
	require.NoError(t, l.Vault.EnableKV2(l.Ctx, "secret"))
	require.NoError(t, l.Vault.PutKV2(l.Ctx, "secret", "trust", map[string]any{"colour": "green"}))
	require.NoError(t, l.Vault.Policy(l.Ctx, "trust", `path "secret/data/trust" { capabilities = ["read"] }`))
	require.NoError(t, l.Vault.WorkloadRole(l.Ctx, "jwt-nomad", "trust", harness.WorkloadRole{Policies: []string{"trust"}, TTL: time.Hour}))
	mark, err := l.Vault.Mark()
	require.NoError(t, err)

	alloc := l.RunFile("vault-trust", nil)
	require.Equal(t, []string{`local/colour "green"`}, l.Lines(alloc, "web", "file ", 1))

	logins, err := l.Vault.Requests(mark, "auth/jwt-nomad/login")
	require.NoError(t, err)
	require.Len(t, logins, 1)
}

func TestVaultKeepsItsDataOverASealAndAKill(t *testing.T) {
	l := newLab(t)
	v, err := l.NewVault(l.Ctx, "vault-restarted")
	require.NoError(t, err)
	require.NoError(t, v.EnableKV1(l.Ctx, "kv"))
	require.NoError(t, v.PutKV1(l.Ctx, "kv", "a", map[string]any{"b": "c"}))
	read := func() error { _, err := v.Client().KVv1("kv").Get(l.Ctx, "a"); return err }

	require.NoError(t, v.Seal(l.Ctx))
	require.ErrorContains(t, read(), "Vault is sealed")
	require.NoError(t, v.Unseal(l.Ctx))
	require.NoError(t, read())

	v.Kill()
	require.ErrorContains(t, read(), "connection refused")
	require.NoError(t, v.Start(l.Ctx))
	require.NoError(t, read())
}
