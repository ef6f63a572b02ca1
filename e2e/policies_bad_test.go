package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// Policies of which something, or all, cannot be had. The task starts with the rest, and an event says what is left
// out and what to do; where the job itself asks for its policies' secrets and nobody can tell which those
// are, its start fails. No credential is made and forgotten.
func TestPoliciesThatCannotBeHad(t *testing.T) {
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "policies-bad", Placement: harness.InPlace, Secrets: map[string]any{"start_timeout": "5s"},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newLabOn(t, agent)
	v := l.Vault
	rabbit, err := l.RabbitMQ(l.Ctx)
	require.NoError(t, err)
	require.NoError(t, v.EnableKV2(l.Ctx, "secret"))
	require.NoError(t, v.PutKV2(l.Ctx, "secret", "bad/real", map[string]any{"a": "b"}))
	require.NoError(t, v.EnableDatabase(l.Ctx, "bad-db", l.MariaDB))
	require.NoError(t, v.DatabaseRole(l.Ctx, "bad-db", "real", time.Hour, 2*time.Hour))
	require.NoError(t, v.EnableRabbitMQ(l.Ctx, "bad-mq", rabbit, time.Hour, 2*time.Hour))
	require.NoError(t, v.RabbitMQRole(l.Ctx, "bad-mq", "queue"))
	// A database whose server is down.
	require.NoError(t, v.EnableDatabase(l.Ctx, "bad-down", l.MariaDB))
	_, err = v.Client().Logical().WriteWithContext(l.Ctx, "bad-down/config/mariadb", map[string]any{
		"plugin_name": "mysql-database-plugin", "connection_url": "{{username}}:{{password}}@tcp(127.0.0.1:9)/",
		"username": "u", "password": "p", "allowed_roles": "*", "verify_connection": false,
	})
	require.NoError(t, err)
	require.NoError(t, v.DatabaseRole(l.Ctx, "bad-down", "down", time.Hour, 2*time.Hour))
	leases := func() int {
		n := 0
		for _, prefix := range []string{"bad-db/creds/real", "bad-mq/creds/queue"} {
			ids, err := v.Leases(l.Ctx, prefix)
			require.NoError(t, err)
			n += len(ids)
		}
		return n
	}
	require.Zero(t, leases())
	users := func() (all []string) {
		all, err := l.MariaDB.Users(l.Ctx)
		require.NoError(t, err)
		all = slices.DeleteFunc(all, func(user string) bool { return !strings.Contains(user, "-real-") }) // others' may be on their way out
		brokers, err := rabbit.Users(l.Ctx)
		require.NoError(t, err)
		return append(all, brokers...)
	}
	before := users()

	mark := l.Mark()
	read := func(path string) string { return fmt.Sprintf("path %q { capabilities = [\"read\"] }\n", path) }
	good := read("bad-db/creds/real") + read("bad-mq/creds/queue")
	for _, bad := range []struct {
		name, policy string // no policy: not even a role to log in with
		says         []string
		has, hasNot  string // a variable; has empty: it does not start, for the job itself asks for what its policies grant
	}{
		{"policies-no-login", "", []string{"log in at auth/jwt-policies-bad as role policies-no-login", "could not be found"}, "", ""},
		{"policies-clash", good + read("secret/data/bad/real"), []string{"bad-db/creds/real (its name would be that of secret/data/bad/real", "declare one of them"}, "QUEUE_USERNAME", "REAL_USERNAME"},
		{"policies-no-role", good + read("bad-db/creds/none-such"), []string{"bad-db/creds/none-such (", "unknown role"}, "REAL_USERNAME", "NONE_SUCH_USERNAME"},
		{"policies-down", good + read("bad-down/creds/down"), []string{"bad-down/creds/down (no answer: "}, "REAL_USERNAME", "DOWN_USERNAME"},
	} {
		if bad.policy != "" {
			require.NoError(t, v.Policy(l.Ctx, bad.name, bad.policy+"path \"sys/leases/revoke\" { capabilities = [\"update\"] }\n"))
			require.NoError(t, v.WorkloadRole(l.Ctx, l.Agent.AuthPath, bad.name, harness.WorkloadRole{Policies: []string{bad.name}, TTL: time.Hour}))
		}
		job := l.SubmitFile("policies-bad", lab.Vars{"name": bad.name})
		var alloc *harness.Alloc
		if bad.has == "" {
			alloc, err = job.Failed(l.Ctx)
		} else {
			alloc, err = job.Running(l.Ctx)
		}
		require.NoError(t, err, bad.name)
		for _, text := range bad.says {
			_, err := alloc.WaitEvent(l.Ctx, "web", text)
			require.NoError(t, err, bad.name)
		}
		if bad.has != "" {
			require.NotEmpty(t, l.Env(alloc, "web", bad.has), bad.name)
			require.Empty(t, l.Env(alloc, "web", bad.hasNot), bad.name)
			require.NoError(t, job.Stop(l.Ctx))
		} else {
			started, err := alloc.Lines("web", "start")
			require.NoError(t, err)
			require.Empty(t, started, bad.name)
		}
		l.Until("no lease to be left of "+bad.name, func() error {
			if n := leases(); n > 0 {
				return fmt.Errorf("%d are", n)
			}
			return nil
		})
		l.Until("the users to be those from before "+bad.name, func() error {
			if now := users(); !slices.Equal(before, now) {
				return fmt.Errorf("there were %v, and there are %v", before, now)
			}
			return nil
		})
		l.NoJournal(alloc)
	}
	for _, path := range []string{"bad-db/creds/real", "bad-mq/creds/queue"} {
		made, err := v.Requests(mark, path)
		require.NoError(t, err)
		require.NotEmpty(t, slices.DeleteFunc(made, func(r harness.Request) bool { return r.Error != "" }), "no job had a credential of %s made", path)
	}

	// What needs parameters is skipped, and a policy that grants nothing is no error: both are said.
	require.NoError(t, v.Policy(l.Ctx, "policies-skip", `path "bad-pki/issue/web" { capabilities = ["update"] }`))
	require.NoError(t, v.EnablePKI(l.Ctx, "bad-pki", "web"))
	require.NoError(t, v.WorkloadRole(l.Ctx, l.Agent.AuthPath, "policies-skip", harness.WorkloadRole{Policies: []string{"policies-skip"}, TTL: time.Hour}))
	alloc := l.RunFile("policies-bad", lab.Vars{"name": "policies-skip"})
	for _, text := range []string{"bad-pki/issue/web (it needs parameters; declare it with params)", "grant no secret; check the policies of its role"} {
		_, err := alloc.WaitEvent(l.Ctx, "web", text)
		require.NoError(t, err)
	}
}
