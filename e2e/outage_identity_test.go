package e2e

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// Nomad's servers are away when a task's token must be replaced, and longer than its JWT lives: an outage
// like one of the secrets server (C3). The task runs on, with credentials that live as long as they
// would, and has new ones once Nomad has renewed the JWT.
func TestIdentityExpiresWhileNomadIsAway(t *testing.T) {
	t.Parallel()
	const tokenLives = 30 * time.Second
	l := newOwnLab(t, harness.AgentOptions{Name: "jwt-away", Placement: placement}, 3*time.Minute)
	agent := l.Agent
	require.NoError(t, l.Vault.EnableDatabase(l.Ctx, "database", l.MariaDB))
	require.NoError(t, l.Vault.DatabaseRole(l.Ctx, "database", "jwt-away", time.Hour, time.Hour))
	require.NoError(t, l.Vault.Policy(l.Ctx, "jwt-away", `path "database/creds/jwt-away" { capabilities = ["read"] }`))
	require.NoError(t, l.Vault.WorkloadRole(l.Ctx, agent.AuthPath, "jwt-away", harness.WorkloadRole{
		Policies: []string{"jwt-away"}, TTL: tokenLives, MaxTTL: tokenLives, Strict: true,
	}))
	alloc := l.RunFile("jwt-away", nil)
	l.Lines(alloc, lab.App, "login user=", 1)

	away := time.Now()
	agent.StopServer()
	var granted harness.Request // the login that the task lives by
	l.Until("a login to be refused", func() error {
		logins, err := l.Vault.Requests(0, "auth/"+agent.AuthPath+"/login")
		if err != nil {
			return err
		}
		refused := slices.IndexFunc(logins, func(r harness.Request) bool { return r.Error != "" })
		if refused < 1 {
			return errors.New("none was")
		}
		granted = logins[refused-1]
		return nil
	})
	process := l.Generations(alloc)
	require.NoError(t, agent.StartServer(l.Ctx))
	l.Users(alloc, len(process)+1)
	l.Events(alloc, 1, "server unreachable; credentials stay valid until ")
	l.Events(alloc, 1, "server reachable again")
	l.NotRestarted(alloc, lab.App)
	require.Len(t, l.Generations(alloc), len(process)+1, "the task was restarted more often than for its new credentials")
	refusals, err := alloc.Lines(lab.App, "refused ")
	require.NoError(t, err)
	for _, line := range refusals {
		var user string
		var at int64
		_, err := fmt.Sscanf(line, "user=%s at=%d", &user, &at)
		require.NoError(t, err)
		ended := granted.Time.Truncate(time.Second).Add(tokenLives) // Vault counts from the second
		require.False(t, time.UnixMilli(at).Before(ended), "refused while its token lived: %s", line)
	}
	t.Logf("healed after %v without Nomad's server; refused %d times", time.Since(away).Round(time.Second), len(refusals))
}
