package e2e

import (
	"path"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A static role: Vault gives a user of AWS's a new key each minute, when it next looks. The task has it
// soon after, and the one before is good meanwhile: a user has two.
func TestAWSStaticRole(t *testing.T) {
	t.Parallel()
	l := newAWSLab(t, "aws-static", "iam_user", time.Hour, time.Hour)
	l.aws.AddUser("ci")
	_, err := l.Vault.Client().Logical().WriteWithContext(l.Ctx, l.name+"/static-roles/ci", map[string]any{"username": "ci", "rotation_period": "60s"})
	require.NoError(t, err)
	l.SetPolicy(l.name, l.name+"/static-creds/ci")
	alloc := l.RunAll(l.job("raw_exec", l.secret("static-creds/ci", awsUserEnv)))[0]
	first := l.key(alloc, 1)
	require.Equal(t, "ci", path.Base(l.owner(first)))

	second := l.key(alloc, 2)
	require.NotEqual(t, first, second)
	require.Equal(t, "ci", path.Base(l.owner(second)))
	require.Equal(t, "ci", path.Base(l.owner(first)))
	l.Event(alloc, `secret "aws" changed; task restarted in place`)
	l.StartedTimes(alloc, 2)
	require.NoError(t, alloc.Job.Stop(l.Ctx))
	l.NoJournal(alloc)
	require.Equal(t, []string{"ci"}, l.aws.Users())
}
