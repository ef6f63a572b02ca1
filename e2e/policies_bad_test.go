package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

const badPoliciesJob = `
job "%[1]s" {
  group "g" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    task "web" {
      driver = "raw_exec"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        command       = "/bin/sh"
        args          = ["-c", "echo start; exec sleep 1000"]
        role          = "%[1]s"
        from_policies = "env"
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`

// Policies that cannot be had: each start fails with what to do, half of nothing is started, and no
// credential is made and forgotten.
func TestPoliciesThatCannotBeHad(t *testing.T) {
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "policies-bad", Placement: harness.InPlace, Secrets: map[string]any{"start_timeout": "5s"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newLabOn(t, agent)
	v := l.Vault
	rabbit, err := l.RabbitMQ(l.ctx)
	require.NoError(t, err)
	require.NoError(t, v.EnableKV2(l.ctx, "secret"))
	require.NoError(t, v.PutKV2(l.ctx, "secret", "bad/real", map[string]any{"a": "b"}))
	require.NoError(t, v.EnableDatabase(l.ctx, "bad-db", l.MariaDB))
	require.NoError(t, v.DatabaseRole(l.ctx, "bad-db", "real", time.Hour, 2*time.Hour))
	require.NoError(t, v.EnableRabbitMQ(l.ctx, "bad-mq", rabbit, time.Hour, 2*time.Hour))
	require.NoError(t, v.RabbitMQRole(l.ctx, "bad-mq", "queue"))
	// A database whose server is down.
	require.NoError(t, v.EnableDatabase(l.ctx, "bad-down", l.MariaDB))
	_, err = v.Client().Logical().WriteWithContext(l.ctx, "bad-down/config/mariadb", map[string]any{
		"plugin_name": "mysql-database-plugin", "connection_url": "{{username}}:{{password}}@tcp(127.0.0.1:9)/",
		"username": "u", "password": "p", "allowed_roles": "*", "verify_connection": false,
	})
	require.NoError(t, err)
	require.NoError(t, v.DatabaseRole(l.ctx, "bad-down", "down", time.Hour, 2*time.Hour))
	leases := func() int {
		n := 0
		for _, prefix := range []string{"bad-db/creds/real", "bad-mq/creds/queue"} {
			ids, err := v.Leases(l.ctx, prefix)
			require.NoError(t, err)
			n += len(ids)
		}
		return n
	}
	require.Zero(t, leases())
	users := func() (all []string) {
		all, err := l.MariaDB.Users(l.ctx)
		require.NoError(t, err)
		all = slices.DeleteFunc(all, func(user string) bool { return !strings.Contains(user, "-real-") }) // others' may be on their way out
		brokers, err := rabbit.Users(l.ctx)
		require.NoError(t, err)
		return append(all, brokers...)
	}
	before := users()

	mark := l.mark()
	read := func(path string) string { return fmt.Sprintf("path %q { capabilities = [\"read\"] }\n", path) }
	good := read("bad-db/creds/real") + read("bad-mq/creds/queue")
	for _, bad := range []struct {
		name, policy string // no policy: not even a role to log in with
		says         []string
	}{
		{"policies-no-login", "", []string{"log in at auth/jwt-policies-bad as role policies-no-login", "could not be found"}},
		{"policies-clash", good + read("secret/data/bad/real"), []string{"bad-db/creds/real", "secret/data/bad/real", "declare one of them under another name"}},
		{"policies-no-role", good + read("bad-db/creds/none-such"), []string{"bad-db/creds/none-such", "unknown role"}},
		{"policies-down", good + read("bad-down/creds/down"), []string{"bad-down/creds/down"}},
	} {
		if bad.policy != "" {
			require.NoError(t, v.Policy(l.ctx, bad.name, bad.policy))
			require.NoError(t, v.WorkloadRole(l.ctx, l.agent.AuthPath, bad.name, harness.WorkloadRole{Policies: []string{bad.name}, TTL: time.Hour}))
		}
		alloc, err := l.submit(fmt.Sprintf(badPoliciesJob, bad.name)).Failed(l.ctx)
		require.NoError(t, err, bad.name)
		for _, text := range bad.says {
			_, err := alloc.WaitEvent(l.ctx, "web", text)
			require.NoError(t, err, bad.name)
		}
		l.until("no lease to be left of "+bad.name, func() error {
			if n := leases(); n > 0 {
				return fmt.Errorf("%d are", n)
			}
			return nil
		})
		l.until("the users to be those from before "+bad.name, func() error {
			if now := users(); !slices.Equal(before, now) {
				return fmt.Errorf("there were %v, and there are %v", before, now)
			}
			return nil
		})
		l.noJournal(alloc)
		started, err := alloc.Lines("web", "start")
		require.NoError(t, err)
		require.Empty(t, started, bad.name)
	}
	for _, path := range []string{"bad-db/creds/real", "bad-mq/creds/queue"} {
		made, err := v.Requests(mark, path)
		require.NoError(t, err)
		require.NotEmpty(t, slices.DeleteFunc(made, func(r harness.Request) bool { return r.Error != "" }), "no job had a credential of %s made that had to be given back", path)
	}

	// What needs parameters is skipped, and a policy that grants nothing is no error: both are said.
	require.NoError(t, v.Policy(l.ctx, "policies-skip", `path "bad-pki/issue/web" { capabilities = ["update"] }`))
	require.NoError(t, v.EnablePKI(l.ctx, "bad-pki", "web"))
	require.NoError(t, v.WorkloadRole(l.ctx, l.agent.AuthPath, "policies-skip", harness.WorkloadRole{Policies: []string{"policies-skip"}, TTL: time.Hour}))
	alloc := l.run(fmt.Sprintf(badPoliciesJob, "policies-skip"))
	for _, text := range []string{"bad-pki/issue/web (it needs parameters; declare it with params)", "grant no secret; look at the policies of its role"} {
		_, err := alloc.WaitEvent(l.ctx, "web", text)
		require.NoError(t, err)
	}
}
