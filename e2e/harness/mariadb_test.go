package harness_test

import (
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

func TestDatabaseCredentials(t *testing.T) {
	l := newLab(t)
	require.NoError(t, l.Vault.EnableDatabase(l.Ctx, "database", l.MariaDB))
	require.NoError(t, l.Vault.DatabaseRole(l.Ctx, "database", "smoke", 10*time.Second, 20*time.Second))
	creds, err := l.Vault.Client().Logical().ReadWithContext(l.Ctx, "database/creds/smoke")
	require.NoError(t, err)
	user, password := creds.Data["username"].(string), creds.Data["password"].(string)

	alloc := l.RunFile("database", lab.Vars{"user": user, "password": password})
	require.Equal(t, []string{"user=" + user}, l.Lines(alloc, "web", "login ", 1))
	require.True(t, l.MariaDB.CanLogin(l.Ctx, user, password))

	require.NoError(t, l.Vault.Client().Sys().RevokeWithContext(l.Ctx, creds.LeaseID))
	l.Lines(alloc, "web", "refused user="+user, 1)
	require.False(t, l.MariaDB.CanLogin(l.Ctx, user, password))
	users, err := l.MariaDB.Users(l.Ctx)
	require.NoError(t, err)
	require.NotContains(t, users, user)
}
