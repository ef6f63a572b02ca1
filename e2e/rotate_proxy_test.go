package e2e

import (
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// Behind a Vault Proxy with a cache, which answers logins, reads and renewals from it, credentials are renewed and rotated in
// time: no log-in of the task's is ever refused, and at its end nothing is left.
func TestBehindAProxyThatCaches(t *testing.T) {
	t.Parallel()
	proxy, err := harness.StartVaultProxy(t.Context(), shared.Vault, t.TempDir())
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	l := newOwnLab(t, harness.AgentOptions{
		Name: "proxy", Placement: placement, Secrets: map[string]any{"address": proxy.Addr},
	}, lab.DefaultTimeout)
	d := lab.DBTask{
		Name: "proxycache", Driver: "raw_exec", Token: harness.WorkloadRole{TTL: hour},
		TTL: 12 * time.Second, Max: 36 * time.Second, Args: `"-linger=1s", "dblogin"`,
	}
	alloc := d.Run(l)
	const swaps = 2
	users := l.Users(alloc, swaps+1)
	l.OnlyLastUser(d, users)
	l.NotRestarted(alloc, lab.App)
	l.StopAndRevoked(d, alloc, l.Users(alloc, swaps+1))
	lab.NeverRefused(t, l.Generations(alloc))
}
