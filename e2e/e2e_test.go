package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

const dockerSleep = `
job "%s" {
  group "g" {
    %s
    task "web" {
      driver = "docker"
      config {
        image   = "${meta.image}"
        command = "testapp"
        args    = ["sleep"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`

func TestDockerTask(t *testing.T) {
	l := newLab(t)
	alloc := l.run(fmt.Sprintf(dockerSleep, "docker-task", ""))
	l.lines(alloc, "web", "start pid=1 ", 1)

	out, code, err := alloc.Exec(l.ctx, "web", "sh", "-c", "echo $NOMAD_TASK_NAME; exit 3")
	require.NoError(t, err)
	require.Equal(t, "web\n", out)
	require.Equal(t, 3, code)

	inspect, err := alloc.Container(l.ctx, "web")
	require.NoError(t, err)
	require.True(t, inspect.State.Running)

	_, err = alloc.WaitEvent(l.ctx, "web", "Task started by client")
	require.NoError(t, err)
}

func TestDockerGroupNetwork(t *testing.T) {
	l := newLab(t)
	alloc := l.run(fmt.Sprintf(dockerSleep, "docker-bridge", `network { mode = "bridge" }`))
	out, code, err := alloc.Exec(l.ctx, "web", "ip", "addr", "show", "eth0")
	require.NoError(t, err)
	require.Zero(t, code, out)
	require.Contains(t, out, "172.26.")
}

func TestDockerPullWithLogin(t *testing.T) {
	l := newLab(t)
	registry, err := l.Registry(l.ctx)
	require.NoError(t, err)
	ref, err := registry.Push(l.ctx, l.Images.App, "app:1")
	require.NoError(t, err)
	alloc := l.run(fmt.Sprintf(`
job "docker-pull" {
  group "g" {
    task "web" {
      driver = "docker"
      config {
        image   = "%s"
        command = "testapp"
        args    = ["sleep"]
        auth {
          username = "%s"
          password = "%s"
        }
      }
    }
  }
}`, ref, registry.User, registry.Password))
	l.lines(alloc, "web", "start ", 1)
}

func TestRawExecTask(t *testing.T) {
	l := newLab(t)
	alloc := l.run(`
job "raw-exec-task" {
  group "g" {
    task "web" {
      driver = "raw_exec"
      config {
        command = "testapp"
        args    = ["sighup", "/proc/self/comm"]
      }
    }
  }
}`)
	l.lines(alloc, "web", "file ", 1)
	require.NoError(t, alloc.Signal(l.ctx, "web", "SIGHUP"))
	l.lines(alloc, "web", "changed ", 1)
	// Nomad collects them every few seconds.
	l.until("stats", func() error { _, err := alloc.Stats(l.ctx, "web"); return err })
}

// The task logs in to Vault with its identity, through Nomad's own vault block, so that a failure of
// the servers' trust in each other is not taken for one of the plugin.
func TestVaultTrustsNomad(t *testing.T) {
	l := newLab(t)
	require.NoError(t, l.Vault.EnableKV2(l.ctx, "secret"))
	require.NoError(t, l.Vault.PutKV2(l.ctx, "secret", "trust", map[string]any{"colour": "green"}))
	require.NoError(t, l.Vault.Policy(l.ctx, "trust", `path "secret/data/trust" { capabilities = ["read"] }`))
	require.NoError(t, l.Vault.WorkloadRole(l.ctx, "jwt-nomad", "trust", harness.WorkloadRole{Policies: []string{"trust"}, TTL: time.Hour}))
	mark, err := l.Vault.Mark()
	require.NoError(t, err)

	alloc := l.run(`
job "vault-trust" {
  group "g" {
    task "web" {
      driver = "raw_exec"
      vault {
        role = "trust"
      }
      template {
        data        = "{{ with secret \"secret/trust\" }}{{ .Data.data.colour }}{{ end }}"
        destination = "local/colour"
      }
      config {
        command = "testapp"
        args    = ["sighup", "local/colour"]
      }
    }
  }
}`)
	require.Equal(t, []string{`local/colour "green"`}, l.lines(alloc, "web", "file ", 1))

	logins, err := l.Vault.Requests(mark, "auth/jwt-nomad/login")
	require.NoError(t, err)
	require.Len(t, logins, 1)
}

func TestDatabaseCredentials(t *testing.T) {
	l := newLab(t)
	require.NoError(t, l.Vault.EnableDatabase(l.ctx, "database", l.MariaDB))
	require.NoError(t, l.Vault.DatabaseRole(l.ctx, "database", "smoke", 10*time.Second, 20*time.Second))
	creds, err := l.Vault.Client().Logical().ReadWithContext(l.ctx, "database/creds/smoke")
	require.NoError(t, err)
	user, password := creds.Data["username"].(string), creds.Data["password"].(string)

	alloc := l.run(fmt.Sprintf(`
job "database" {
  group "g" {
    task "web" {
      driver = "docker"
      env {
        DB_ADDR     = "${meta.db_addr}"
        DB_USER     = "%s"
        DB_PASSWORD = "%s"
      }
      config {
        image        = "${meta.image}"
        network_mode = "host"
        command      = "testapp"
        args         = ["dblogin"]
      }
    }
  }
}`, user, password))
	require.Equal(t, []string{"user=" + user}, l.lines(alloc, "web", "login ", 1))
	require.True(t, l.MariaDB.CanLogin(l.ctx, user, password))

	require.NoError(t, l.Vault.Client().Sys().RevokeWithContext(l.ctx, creds.LeaseID))
	l.lines(alloc, "web", "refused user="+user, 1)
	require.False(t, l.MariaDB.CanLogin(l.ctx, user, password))
	users, err := l.MariaDB.Users(l.ctx)
	require.NoError(t, err)
	require.NotContains(t, users, user)
}

func TestVaultKeepsItsDataOverASealAndAKill(t *testing.T) {
	l := newLab(t)
	v, err := l.NewVault(l.ctx, "vault-restarted")
	require.NoError(t, err)
	require.NoError(t, v.EnableKV1(l.ctx, "kv"))
	require.NoError(t, v.PutKV1(l.ctx, "kv", "a", map[string]any{"b": "c"}))
	read := func() error { _, err := v.Client().KVv1("kv").Get(l.ctx, "a"); return err }

	require.NoError(t, v.Seal(l.ctx))
	require.ErrorContains(t, read(), "Vault is sealed")
	require.NoError(t, v.Unseal(l.ctx))
	require.NoError(t, read())

	v.Kill()
	require.ErrorContains(t, read(), "connection refused")
	require.NoError(t, v.Start(l.ctx))
	require.NoError(t, read())
}

// A Nomad agent that is stopped or killed and started again on its data finds its tasks.
func TestAgentRestart(t *testing.T) {
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{Name: "restarted", Placement: placement})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newLabOn(t, agent)
	alloc := l.run(fmt.Sprintf(dockerSleep, "survivor", ""))
	l.lines(alloc, "web", "start ", 1)
	before, err := alloc.Container(l.ctx, "web")
	require.NoError(t, err)

	agent.Kill()
	require.NoError(t, agent.Start(l.ctx))
	require.NoError(t, agent.Restart(l.ctx))
	after, err := alloc.Container(l.ctx, "web")
	require.NoError(t, err)
	require.Equal(t, before.ID, after.ID)
	restarts, err := alloc.Restarts(l.ctx, "web")
	require.NoError(t, err)
	require.Zero(t, restarts)
}
