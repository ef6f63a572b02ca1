package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// newPoliciesLab is a lab on an agent whose operator has set from_policies.
func newPoliciesLab(t *testing.T, name string) *lab {
	t.Helper()
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: name, Placement: harness.InPlace,
		Secrets: map[string]any{"from_policies": "all", "lease_check_interval": "2s"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	return newLabOn(t, agent)
}

// has says what a variable of a running task is now.
func (l *lab) has(alloc *harness.Alloc, task, name string) string {
	l.t.Helper()
	out, code, err := alloc.Exec(l.ctx, task, "/bin/sh", "-c", "echo -n $"+name)
	require.NoError(l.t, err)
	require.Zero(l.t, code, out)
	return strings.TrimSpace(out)
}

// The user's own case: a vault block with a role, and nothing else. MariaDB's and RabbitMQ's credentials
// and the certificates of a KV engine are there, and a rotation of any of them restarts the task.
func TestPoliciesSecrets(t *testing.T) {
	l := newPoliciesLab(t, "policies")
	rabbit, err := l.RabbitMQ(l.ctx)
	require.NoError(t, err)
	v := l.Vault
	require.NoError(t, v.EnableKV2(l.ctx, "secret"))
	require.NoError(t, v.EnableDatabase(l.ctx, "database", l.MariaDB))
	require.NoError(t, v.DatabaseRole(l.ctx, "database", "orders-db", 10*time.Minute, time.Hour))
	require.NoError(t, v.EnableRabbitMQ(l.ctx, "rabbitmq", rabbit, 10*time.Minute, time.Hour))
	require.NoError(t, v.RabbitMQRole(l.ctx, "rabbitmq", "orders-mq"))
	require.NoError(t, v.PutKV2(l.ctx, "secret", "orders/tls", map[string]any{"cert": "cert-1", "key": "key-1"}))
	policy, err := os.ReadFile("../jobs/from_policies/orders.hcl")
	require.NoError(t, err)
	require.NoError(t, v.Policy(l.ctx, "orders", string(policy)))
	require.NoError(t, v.WorkloadRole(l.ctx, l.agent.AuthPath, "orders", harness.WorkloadRole{Policies: []string{"orders"}, TTL: time.Hour}))
	require.NoError(t, exec.Command("docker", "tag", l.Images.App, "secrets-demo/busybox:1").Run())

	before, err := rabbit.Users(l.ctx)
	require.NoError(t, err)
	require.Empty(t, before)
	var allocs []*harness.Alloc
	for _, driver := range []string{"docker", "raw_exec"} {
		hcl, err := os.ReadFile("../jobs/from_policies/" + driver + ".nomad.hcl")
		require.NoError(t, err)
		mark, err := v.Mark()
		require.NoError(t, err)
		alloc := l.run(string(hcl))
		l.lines(alloc, "app", "start v-", 1)
		requests, err := v.Requests(mark, "sys/internal/ui/resultant-acl")
		require.NoError(t, err)
		require.NotEmpty(t, requests)
		allocs = append(allocs, alloc)
	}
	for _, alloc := range allocs {
		dbUser, dbPass := l.has(alloc, "app", "ORDERS_DB_USERNAME"), l.has(alloc, "app", "ORDERS_DB_PASSWORD")
		mqUser, mqPass := l.has(alloc, "app", "ORDERS_MQ_USERNAME"), l.has(alloc, "app", "ORDERS_MQ_PASSWORD")
		require.True(t, l.MariaDB.CanLogin(l.ctx, dbUser, dbPass))
		require.True(t, rabbit.CanLogin(mqUser, mqPass))
		require.False(t, rabbit.CanLogin(mqUser, "not "+mqPass))
		require.Equal(t, "cert-1", l.has(alloc, "app", "TLS_CERT"))
		require.Empty(t, l.has(alloc, "app", "VAULT_TOKEN"))
		out, _, err := alloc.Exec(l.ctx, "app", "/bin/sh", "-c", "cat $NOMAD_SECRETS_DIR/tls/key $NOMAD_SECRETS_DIR/orders-mq/username")
		require.NoError(t, err)
		require.Equal(t, "key-1"+mqUser, out)
	}

	// A certificate that somebody writes anew, a broker's lease and a database's that are revoked.
	for n, rotate := range []func() error{
		func() error {
			return v.PutKV2(l.ctx, "secret", "orders/tls", map[string]any{"cert": "cert-2", "key": "key-2"})
		},
		func() error { return v.Client().Sys().RevokePrefixWithContext(l.ctx, "rabbitmq/creds/orders-mq") },
		func() error { return v.Client().Sys().RevokePrefixWithContext(l.ctx, "database/creds/orders-db") },
	} {
		require.NoError(t, rotate())
		for _, alloc := range allocs {
			l.lines(alloc, "app", "start v-", n+2)
		}
	}
	for _, alloc := range allocs {
		require.Equal(t, "cert-2", l.has(alloc, "app", "TLS_CERT"))
		require.True(t, rabbit.CanLogin(l.has(alloc, "app", "ORDERS_MQ_USERNAME"), l.has(alloc, "app", "ORDERS_MQ_PASSWORD")))
		require.True(t, l.MariaDB.CanLogin(l.ctx, l.has(alloc, "app", "ORDERS_DB_USERNAME"), l.has(alloc, "app", "ORDERS_DB_PASSWORD")))
		restarts, err := alloc.Restarts(l.ctx, "app")
		require.NoError(t, err)
		require.Zero(t, restarts, "C8")
	}

	// The policy grants one thing more, then less.
	require.NoError(t, v.PutKV2(l.ctx, "secret", "extra", map[string]any{"colour": "green"}))
	require.NoError(t, v.Policy(l.ctx, "orders", string(policy)+`path "secret/data/extra" { capabilities = ["read"] }`))
	for _, alloc := range allocs {
		l.lines(alloc, "app", "start v-", 5)
		require.Equal(t, "green", l.has(alloc, "app", "EXTRA_COLOUR"))
	}
	require.NoError(t, v.Policy(l.ctx, "orders", string(policy)))
	for _, alloc := range allocs {
		l.lines(alloc, "app", "start v-", 6)
		require.Empty(t, l.has(alloc, "app", "EXTRA_COLOUR"))
	}

	for _, job := range l.jobs {
		require.NoError(t, job.Stop(l.ctx))
	}
	l.until("no user to be left in RabbitMQ (E1)", func() error {
		users, err := rabbit.Users(l.ctx)
		if err == nil && len(users) > 0 {
			err = fmt.Errorf("there are %v", users)
		}
		return err
	})
	l.until("no lease to be left (E1)", func() error {
		leases, err := v.Leases(l.ctx, "database/creds/orders-db")
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
	require.NoError(t, v.WorkloadRole(l.ctx, l.agent.AuthPath, "bare", harness.WorkloadRole{Policies: []string{"none-such"}, TTL: time.Hour}))
	job := `
job "%s" {
  group "g" {
    task "web" {
      driver = "raw_exec"
      %s
      config {
        command = "/bin/sh"
        args    = ["-c", "echo token-$VAULT_TOKEN | cut -c1-9; exec sleep 1000"]
        %s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`
	require.Equal(t, []string{"-"}, l.lines(l.run(fmt.Sprintf(job, "policies-no-token", "", "")), "web", "token", 1))

	block := `vault { role = "bare" }`
	alloc := l.run(fmt.Sprintf(job, "policies-nothing", block, ""))
	require.Equal(t, []string{"-hvs"}, l.lines(alloc, "web", "token", 1))
	_, err := alloc.WaitEvent(l.ctx, "web", "the policies of the task's token grant no")
	require.NoError(t, err)

	alloc = l.run(fmt.Sprintf(job, "policies-off", block, `from_policies = "off"`))
	require.Equal(t, []string{"-hvs"}, l.lines(alloc, "web", "token", 1))
}
