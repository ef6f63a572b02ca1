package lab

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// Mark is a place in the audit log of the cluster's Vault.
func (l *Lab) Mark() harness.Mark {
	l.T.Helper()
	mark, err := l.Vault.Mark()
	require.NoError(l.T, err)
	return mark
}

// TokenLives asks Vault for a token by its accessor.
func (l *Lab) TokenLives(accessor string) bool {
	l.T.Helper()
	_, err := l.Vault.Client().Auth().Token().LookupAccessorWithContext(l.Ctx, accessor)
	return err == nil
}

// Allow makes a role for tasks of the lab's agent, and a policy of the same name: they may read paths.
func (l *Lab) Allow(role string, paths ...string) {
	l.T.Helper()
	l.SetPolicy(role, paths...)
	l.AllowRole(role)
}

// AllowLeased is Allow for tasks that may revoke their leases, too.
func (l *Lab) AllowLeased(role string, paths ...string) {
	l.T.Helper()
	revoke := `path "sys/leases/revoke" { capabilities = ["update"] }`
	require.NoError(l.T, l.Agent.Vault().Policy(l.Ctx, role, mayRead(paths)+revoke))
	l.AllowRole(role)
}

// AllowRole makes a role for tasks of the lab's agent that has the policy of the same name.
func (l *Lab) AllowRole(role string) {
	l.T.Helper()
	require.NoError(l.T, l.Agent.Vault().WorkloadRole(l.Ctx, l.Agent.AuthPath, role, harness.WorkloadRole{Policies: []string{role}, TTL: time.Hour}))
}

// SetPolicy says what a role may read, from now on.
func (l *Lab) SetPolicy(role string, paths ...string) {
	l.T.Helper()
	require.NoError(l.T, l.Agent.Vault().Policy(l.Ctx, role, mayRead(paths)))
}

func mayRead(paths []string) string {
	policy := "# empty is no policy\n"
	for _, path := range paths {
		policy += fmt.Sprintf("path %q { capabilities = [\"read\"] }\n", path)
	}
	return policy
}

// Now is a mark in Vault's audit log, and the time.
func (l *Lab) Now() (harness.Mark, time.Time) {
	l.T.Helper()
	return l.Mark(), time.Now()
}

// RevokedWithin is E1's bound.
const RevokedWithin = 5 * time.Second

// Leases waits until there are n leases below prefix, and returns them.
func (l *Lab) Leases(prefix string, n int) []string {
	l.T.Helper()
	var ids []string
	l.Soon(fmt.Sprintf("%d leases of %s", n, prefix), RevokedWithin, func(ctx context.Context) (err error) {
		if ids, err = l.Vault.Leases(ctx, prefix); err != nil {
			return err
		}
		if len(ids) != n {
			return fmt.Errorf("there are: %q", ids)
		}
		return nil
	})
	return ids
}

// PutColour writes secret/<name>, whose one field is colour.
func (l *Lab) PutColour(name, colour string) {
	l.T.Helper()
	v := l.Agent.Vault()
	require.NoError(l.T, v.EnableKV2(l.Ctx, "secret"))
	require.NoError(l.T, v.PutKV2(l.Ctx, "secret", name, map[string]any{"colour": colour}))
}

// OfJob are the requests that these jobs' tasks made.
func OfJob(all []harness.Request, jobs ...string) (found []harness.Request) {
	for _, r := range all {
		if slices.Contains(jobs, r.Job) {
			found = append(found, r)
		}
	}
	return found
}

// WriteVault writes to Vault as an operator does.
func (l *Lab) WriteVault(path string, data map[string]any) map[string]any {
	l.T.Helper()
	answer, err := l.Agent.Vault().Client().Logical().WriteWithContext(l.Ctx, path, data)
	require.NoError(l.T, err)
	if answer == nil {
		return nil
	}
	return answer.Data
}
