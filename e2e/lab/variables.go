package lab

import (
	"fmt"

	"github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// NomadIdentity gives a task the identity that its Nomad Variables are read with.
const NomadIdentity = `
      identity {
        file     = true
        filepath = "private/nomad.jwt"
      }`

// PutVariable writes a Nomad Variable with one item, password.
func (l *Lab) PutVariable(namespace, path, password string) {
	l.T.Helper()
	_, _, err := l.Agent.Client().Variables().Create(&api.Variable{
		Namespace: namespace, Path: path, Items: api.VariableItems{"password": password},
	}, (&api.WriteOptions{Namespace: namespace}).WithContext(l.Ctx))
	require.NoError(l.T, err)
}

// DeleteVariable deletes one of the namespace default.
func (l *Lab) DeleteVariable(path string) {
	l.T.Helper()
	_, err := l.Agent.Client().Variables().Delete(path, (&api.WriteOptions{}).WithContext(l.Ctx))
	require.NoError(l.T, err)
}

// BindPolicy writes an ACL policy of Nomad's and binds it to a job of the namespace default.
func (l *Lab) BindPolicy(name, job, rules string) {
	l.T.Helper()
	_, err := l.Agent.Client().ACLPolicies().Upsert(&api.ACLPolicy{
		Name: name, Rules: rules, JobACL: &api.JobACL{Namespace: "default", JobID: job},
	}, (&api.WriteOptions{}).WithContext(l.Ctx))
	require.NoError(l.T, err)
}

// Gets waits until a file of the task "app" has this content.
func (l *Lab) Gets(alloc *harness.Alloc, file, want string) {
	l.T.Helper()
	l.Until(fmt.Sprintf("%s of %s to be %q", file, alloc.Job.ID, want), func() error { return FileIs(alloc, file, want) })
}
