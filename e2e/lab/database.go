package lab

import (
	"fmt"
	"strings"

	"github.com/stretchr/testify/require"
)

// DatabaseUsers are the users that Vault made by a database role, whose name is of 10 letters at most.
func (l *Lab) DatabaseUsers(role string) []string {
	l.T.Helper()
	all, err := l.MariaDB.Users(l.Ctx)
	require.NoError(l.T, err)
	var users []string
	for _, user := range all {
		if strings.Contains(user, "-"+role+"-") {
			users = append(users, user)
		}
	}
	return users
}

// LockedRole makes a role of a database engine whose credentials take as long to make as somebody else
// has the lock of the role's name.
func (l *Lab) LockedRole(mount, role string) {
	l.T.Helper()
	_, err := l.Vault.Client().Logical().WriteWithContext(l.Ctx, mount+"/roles/"+role, map[string]any{
		"db_name": "mariadb",
		"creation_statements": []string{
			awaitLock(role),
			"DO RELEASE_LOCK('" + role + "')",
			"CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'",
		},
		"revocation_statements": []string{"DROP USER IF EXISTS '{{name}}'@'%'"},
		"default_ttl":           "1h",
		"max_ttl":               "2h",
	})
	require.NoError(l.T, err)
}

func awaitLock(role string) string { return "DO GET_LOCK('" + role + "', 300)" }

// CredentialsPending waits until the server is making n credentials of a locked role.
func (l *Lab) CredentialsPending(role string, n int) {
	l.T.Helper()
	l.Until(fmt.Sprintf("%d credentials in the making", n), func() error {
		running, err := l.MariaDB.Running(l.Ctx, awaitLock(role))
		if err == nil && running != n {
			err = fmt.Errorf("there are %d", running)
		}
		return err
	})
}
