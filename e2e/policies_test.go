package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// newPoliciesLab is a lab on an agent whose operator has set from_policies.
func newPoliciesLab(t *testing.T, name string) *lab.Lab {
	t.Helper()
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: name, Placement: harness.InPlace,
		Secrets: map[string]any{"from_policies": "all", "lease_check_interval": "2s"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	return newLabOn(t, agent)
}

// The user's own case: a vault block with a role, and nothing else. MariaDB's and RabbitMQ's credentials
// and the certificates of a KV engine are there, and a rotation of any of them restarts the task.
func TestPoliciesSecrets(t *testing.T) {
	l := newPoliciesLab(t, "policies")
	rabbit, err := l.RabbitMQ(l.Ctx)
	require.NoError(t, err)
	v := l.Vault
	require.NoError(t, v.EnableKV2(l.Ctx, "secret"))
	require.NoError(t, v.EnableDatabase(l.Ctx, "database", l.MariaDB))
	require.NoError(t, v.DatabaseRole(l.Ctx, "database", "orders-db", 10*time.Minute, time.Hour))
	require.NoError(t, v.EnableRabbitMQ(l.Ctx, "rabbitmq", rabbit, 10*time.Minute, time.Hour))
	require.NoError(t, v.RabbitMQRole(l.Ctx, "rabbitmq", "orders-mq"))
	require.NoError(t, v.PutKV2(l.Ctx, "secret", "orders/tls", map[string]any{"cert": "cert-1", "key": "key-1"}))
	policy, err := os.ReadFile("../jobs/from_policies/orders.hcl")
	require.NoError(t, err)
	require.NoError(t, v.Policy(l.Ctx, "orders", string(policy)))
	require.NoError(t, v.WorkloadRole(l.Ctx, l.Agent.AuthPath, "orders", harness.WorkloadRole{Policies: []string{"orders"}, TTL: time.Hour}))
	require.NoError(t, exec.Command("docker", "tag", l.Images.App, "secrets-demo/busybox:1").Run())

	before, err := rabbit.Users(l.Ctx)
	require.NoError(t, err)
	require.Empty(t, before)
	var allocs []*harness.Alloc
	for _, driver := range []string{"docker", "raw_exec"} {
		hcl, err := os.ReadFile("../jobs/from_policies/" + driver + ".nomad.hcl")
		require.NoError(t, err)
		mark, err := v.Mark()
		require.NoError(t, err)
		alloc := l.Run(string(hcl))
		l.Lines(alloc, "app", "start v-", 1)
		requests, err := v.Requests(mark, "sys/internal/ui/resultant-acl")
		require.NoError(t, err)
		require.NotEmpty(t, requests)
		allocs = append(allocs, alloc)
	}
	for _, alloc := range allocs {
		dbUser, dbPass := l.Env(alloc, "app", "ORDERS_DB_USERNAME"), l.Env(alloc, "app", "ORDERS_DB_PASSWORD")
		mqUser, mqPass := l.Env(alloc, "app", "ORDERS_MQ_USERNAME"), l.Env(alloc, "app", "ORDERS_MQ_PASSWORD")
		require.True(t, l.MariaDB.CanLogin(l.Ctx, dbUser, dbPass))
		require.True(t, rabbit.CanLogin(mqUser, mqPass))
		require.False(t, rabbit.CanLogin(mqUser, "not "+mqPass))
		require.Equal(t, "cert-1", l.Env(alloc, "app", "TLS_CERT"))
		require.True(t, strings.HasPrefix(l.Env(alloc, "app", "VAULT_TOKEN"), "hvs."), "the job has asked for nothing, and keeps what it had")
		out, _, err := alloc.Exec(l.Ctx, "app", "/bin/sh", "-c", "cat $NOMAD_SECRETS_DIR/tls/key $NOMAD_SECRETS_DIR/orders-mq/username")
		require.NoError(t, err)
		require.Equal(t, "key-1"+mqUser, out)
	}

	// A certificate that somebody writes anew, a broker's lease and a database's that are revoked.
	for n, rotate := range []func() error{
		func() error {
			return v.PutKV2(l.Ctx, "secret", "orders/tls", map[string]any{"cert": "cert-2", "key": "key-2"})
		},
		func() error { return v.Client().Sys().RevokePrefixWithContext(l.Ctx, "rabbitmq/creds/orders-mq") },
		func() error { return v.Client().Sys().RevokePrefixWithContext(l.Ctx, "database/creds/orders-db") },
	} {
		require.NoError(t, rotate())
		for _, alloc := range allocs {
			l.Lines(alloc, "app", "start v-", n+2)
		}
	}
	for _, alloc := range allocs {
		require.Equal(t, "cert-2", l.Env(alloc, "app", "TLS_CERT"))
		require.True(t, rabbit.CanLogin(l.Env(alloc, "app", "ORDERS_MQ_USERNAME"), l.Env(alloc, "app", "ORDERS_MQ_PASSWORD")))
		require.True(t, l.MariaDB.CanLogin(l.Ctx, l.Env(alloc, "app", "ORDERS_DB_USERNAME"), l.Env(alloc, "app", "ORDERS_DB_PASSWORD")))
		restarts, err := alloc.Restarts(l.Ctx, "app")
		require.NoError(t, err)
		require.Zero(t, restarts, "C8")
	}

	// The policy grants one thing more, then less.
	require.NoError(t, v.PutKV2(l.Ctx, "secret", "extra", map[string]any{"colour": "green"}))
	require.NoError(t, v.Policy(l.Ctx, "orders", string(policy)+`path "secret/data/extra" { capabilities = ["read"] }`))
	for _, alloc := range allocs {
		l.Lines(alloc, "app", "start v-", 5)
		require.Equal(t, "green", l.Env(alloc, "app", "EXTRA_COLOUR"))
	}
	require.NoError(t, v.Policy(l.Ctx, "orders", string(policy)))
	for _, alloc := range allocs {
		l.Lines(alloc, "app", "start v-", 6)
		require.Empty(t, l.Env(alloc, "app", "EXTRA_COLOUR"))
	}

	for _, job := range l.Jobs {
		require.NoError(t, job.Stop(l.Ctx))
	}
	l.Until("no user to be left in RabbitMQ (E1)", func() error {
		users, err := rabbit.Users(l.Ctx)
		if err == nil && len(users) > 0 {
			err = fmt.Errorf("there are %v", users)
		}
		return err
	})
	l.Until("no lease to be left (E1)", func() error {
		leases, err := v.Leases(l.Ctx, "database/creds/orders-db")
		if err == nil && len(leases) > 0 {
			err = fmt.Errorf("there are %v", leases)
		}
		return err
	})
}

// A job without a token is untouched by from_policies; one whose policies grant nothing is, too, and
// an event says so; and the job's own word beats the operator's.
func TestPoliciesOfJobsThatHaveNone(t *testing.T) {
	l := newPoliciesLab(t, "policies-none")
	v := l.Vault
	require.NoError(t, v.WorkloadRole(l.Ctx, l.Agent.AuthPath, "bare", harness.WorkloadRole{Policies: []string{"none-such"}, TTL: time.Hour}))
	require.Equal(t, []string{"-"}, l.Lines(l.RunFile("policies-none", lab.Vars{"name": "policies-no-token"}), "web", "token", 1))

	alloc := l.RunFile("policies-none", lab.Vars{"name": "policies-nothing", "role": "bare"})
	require.Equal(t, []string{"-hvs"}, l.Lines(alloc, "web", "token", 1))
	_, err := alloc.WaitEvent(l.Ctx, "web", "the policies of the task's token grant no")
	require.NoError(t, err)

	alloc = l.RunFile("policies-none", lab.Vars{"name": "policies-off", "role": "bare", "from_policies": "off"})
	require.Equal(t, []string{"-hvs"}, l.Lines(alloc, "web", "token", 1))
}
