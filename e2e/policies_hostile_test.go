package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// hostileGrantJob declares what %[3]s says, and its program shows what it has of the policies. It is made here,
// since that is any number of secrets.
const hostileGrantJob = `
job "%[1]s" {
  group "g" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    task "app" {
      driver = "%[2]s"
      vault {
        role = "hostile-grants"
      }
      env {
        OWN_VAR = "the job's"
      }
      config {
        %[3]s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`

// hostileGrantCommand runs for ever in either driver.
func hostileGrantCommand(l *lab.Lab, driver string) string {
	const args = `args = ["-c", "echo start $GOOD_K; trap exit INT TERM; while true; do sleep 1; done"]`
	if driver == "docker" {
		return fmt.Sprintf("image = %q\ncommand = \"sh\"\n%s", l.Images.App, args)
	}
	return "command = \"/bin/sh\"\n" + args
}

// Who may write one key below a pattern stops no job of that policy, and neither does a line of the policy about
// a role that does not exist: jobs that declare nothing, and jobs that declare all they need, start on both
// drivers with what is good, keep their own VAULT_TOKEN if they declared nothing, over restarts in place
// and of the plugin, and one event tells of what is left out.
func TestHostilePoliciesStopNoJob(t *testing.T) {
	l := newPoliciesLab(t, "policies-hostile")
	v := l.Vault
	require.NoError(t, v.EnableKV1(l.Ctx, "hostile-kv"))
	require.NoError(t, v.EnableDatabase(l.Ctx, "hostile-db", l.MariaDB))
	large := map[string]any{}
	for i := range 400 {
		large[fmt.Sprintf("f%d", i)] = strings.Repeat("x", 4000)
	}
	for path, fields := range map[string]map[string]any{
		"good":                {"k": "v1"},
		"nul":                 {"a": "x\x00y", "b": "fine"},
		"twofields":           {"a.b": "1", "a-b": "2"},
		"ends in a space ":    {"k": "v"},
		"one/twin":            {"k": "v"},
		"two/twin":            {"k": "v"},
		"named/declared-here": {"k": "v"},
		"node":                {"options": "--require /evil.js", "colour": "green"},
		"own":                 {"var": "planted"},
		"large":               large,
		"nomad":               {"token": "x"},
		"vault_token":         {"k": "v"},
	} {
		require.NoError(t, v.PutKV1(l.Ctx, "hostile-kv", path, fields), path)
	}
	require.NoError(t, v.Policy(l.Ctx, "hostile-grants", `
path "hostile-kv/*" { capabilities = ["read", "list"] }
path "hostile-db/creds/nope" { capabilities = ["read"] }
path "sys/leases/revoke" { capabilities = ["update"] }
`))
	require.NoError(t, v.WorkloadRole(l.Ctx, l.Agent.AuthPath, "hostile-grants", harness.WorkloadRole{Policies: []string{"hostile-grants"}, Period: time.Hour}))

	var allocs []*harness.Alloc
	for _, driver := range []string{"docker", "raw_exec"} {
		alloc := l.Run(fmt.Sprintf(hostileGrantJob, "hostile-grants-"+driver, driver, hostileGrantCommand(l, driver)))
		require.Equal(t, []string{"v1"}, l.Lines(alloc, "app", "start ", 1))
		event := l.Event(alloc, "granted by the policies and skipped")
		for _, left := range []string{
			"hostile-db/creds/nope (", "hostile-kv/nul (", "hostile-kv/twofields (", `ends in a space "`, "hostile-kv/one/twin (", "hostile-kv/two/twin (",
			"hostile-kv/own (its variable OWN_VAR is set by the job itself", "hostile-kv/large (", "hostile-kv/nomad (", "hostile-kv/vault_token (",
			"hostile-kv/node (its NODE_OPTIONS is not set",
		} {
			require.Contains(t, event, left)
		}
		require.LessOrEqual(t, len(event), 2<<10+50)
		allocs = append(allocs, alloc)
	}
	has := func(when string) {
		t.Helper()
		for _, alloc := range allocs {
			require.True(t, strings.HasPrefix(l.Env(alloc, "app", "VAULT_TOKEN"), "hvs."), when)
			out, code, err := alloc.Exec(l.Ctx, "app", "/bin/sh", "-c", "cat $NOMAD_SECRETS_DIR/vault_token")
			require.NoError(t, err)
			require.Zero(t, code, when)
			require.True(t, strings.HasPrefix(strings.TrimSpace(out), "hvs."), when)
			require.Empty(t, l.Env(alloc, "app", "NODE_OPTIONS"), when)
			require.Equal(t, "green", l.Env(alloc, "app", "NODE_COLOUR"), when)
			require.Equal(t, "the job's", l.Env(alloc, "app", "OWN_VAR"), when)
			require.Empty(t, l.Env(alloc, "app", "NUL_B"), when)
			require.Empty(t, l.Env(alloc, "app", "TWIN_K"), when)
		}
	}
	has("at the start")
	require.NoError(t, v.PutKV1(l.Ctx, "hostile-kv", "good", map[string]any{"k": "v2"}))
	for _, alloc := range allocs {
		require.Equal(t, []string{"v1", "v2"}, l.Lines(alloc, "app", "start ", 2))
	}
	has("after a restart in place")
	l.KillPlugins()
	require.NoError(t, v.PutKV1(l.Ctx, "hostile-kv", "nul", map[string]any{"a": "fixed", "c": "d"}))
	for _, alloc := range allocs {
		l.Lines(alloc, "app", "start ", 3)
		require.Equal(t, "fixed", l.Env(alloc, "app", "NUL_A"))
	}
	has("after the plugin's restart and another in place")

	// What is spoilt now does nothing to tasks that run; other changes go on.
	require.NoError(t, v.PutKV1(l.Ctx, "hostile-kv", "nul", map[string]any{"a": "\x00"}))
	require.NoError(t, v.PutKV1(l.Ctx, "hostile-kv", "three/good", map[string]any{"k": "planted"}))
	for _, alloc := range allocs {
		l.Event(alloc, `secret "nul"`)
		l.Event(alloc, "hostile-kv/three/good (the task has hostile-kv/good")
	}
	require.NoError(t, v.PutKV1(l.Ctx, "hostile-kv", "good", map[string]any{"k": "v3"}))
	for _, alloc := range allocs {
		l.Lines(alloc, "app", "start v3", 1)
		require.Equal(t, "fixed", l.Env(alloc, "app", "NUL_A"))
		started, err := alloc.Lines("app", "start ")
		require.NoError(t, err)
		require.Len(t, started, 4)
		restarts, err := alloc.Restarts(l.Ctx, "app")
		require.NoError(t, err)
		require.Zero(t, restarts)
	}

	// A job that declares all it needs starts, too, and has no token.
	for _, driver := range []string{"docker", "raw_exec"} {
		alloc := l.Run(fmt.Sprintf(hostileGrantJob, "hostile-declared-"+driver, driver, hostileGrantCommand(l, driver)+`
secret "declared-here" {
  path = "hostile-kv/good"
  env  = { GOOD_K = "k" }
}`))
		require.Equal(t, []string{"v3"}, l.Lines(alloc, "app", "start ", 1))
		require.Empty(t, l.Env(alloc, "app", "VAULT_TOKEN"))
		l.Event(alloc, `hostile-kv/named/declared-here (the job declares a secret "declared-here")`)
	}
}

// A job that declares nothing is not stopped by the operator's option when its policies cannot be had at all.
func TestOperatorsPoliciesStopNoJob(t *testing.T) {
	l := newPoliciesLab(t, "policies-lenient")
	// An identity that is for something else: there is no role to log in with.
	alloc := l.RunFile("policies-lenient", lab.Vars{"name": "lenient-no-login", "vault_block": false})
	l.Event(alloc, "what the task's policies grant cannot be fetched: log in")
	// A token that may not even ask.
	require.NoError(t, l.Vault.Policy(l.Ctx, "lenient-blind", `path "auth/token/*" { capabilities = ["read", "update"] }`))
	require.NoError(t, l.Vault.WorkloadRole(l.Ctx, l.Agent.AuthPath, "lenient-blind", harness.WorkloadRole{Policies: []string{"lenient-blind"}, Period: time.Hour, Bare: true}))
	alloc = l.RunFile("policies-lenient", lab.Vars{"name": "lenient-blind", "vault_block": true})
	l.Event(alloc, "what the policies grant cannot be applied")
}

// The node's token is not sent into a namespace that a job names, nor along a path that leaves the operator's globs:
// the start fails by name, and Vault sees no request.
func TestNodeTokenStaysInItsNamespace(t *testing.T) {
	token := filepath.Join(t.TempDir(), "node-token")
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "node-token", Placement: harness.InPlace,
		Secrets: map[string]any{"token_file": token, "token_file_paths": []string{"node-kv/public/*"}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newLabOn(t, agent)
	v := l.Vault
	require.NoError(t, v.EnableKV1(l.Ctx, "node-kv"))
	require.NoError(t, v.PutKV1(l.Ctx, "node-kv", "public/app", map[string]any{"k": "public"}))
	require.NoError(t, v.PutKV1(l.Ctx, "node-kv", "private/app", map[string]any{"k": "private"}))
	require.NoError(t, v.Policy(l.Ctx, "node-token", `path "node-kv/*" { capabilities = ["read"] }`))
	made, err := v.Client().Auth().Token().CreateWithContext(l.Ctx, &api.TokenCreateRequest{Policies: []string{"node-token"}, TTL: "1h"})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(token, []byte(made.Auth.ClientToken), 0o600))

	// Made here: the table says which blocks it has.
	const job = `
job "%s" {
  group "g" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    task "app" {
      driver = "raw_exec"
      %s
      config {
        command = "/bin/sh"
        args    = ["-c", "echo start $K; exec sleep 1000"]
        %s
        secret "s" {
          path = "%s"
          env  = { K = "k" }
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`
	allowed := l.Submit(fmt.Sprintf(job, "node-token-allowed", "", "", "node-kv/public/app"))
	alloc, err := allowed.Running(l.Ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"public"}, l.Lines(alloc, "app", "start ", 1))
	require.NoError(t, allowed.Stop(l.Ctx)) // and with it its polls
	for name, bad := range map[string]struct{ env, config, path, says string }{
		"namespace":  {"", `namespace = "team"`, "node-kv/public/app", `the job asks in namespace "team"`},
		"env":        {`env { VAULT_NAMESPACE = "team" }`, "", "node-kv/public/app", `the job asks in namespace "team"`},
		"prefix":     {"", "", "team/node-kv/public/app", "token_file_paths do not allow"},
		"other-path": {"", "", "node-kv/private/app", "token_file_paths do not allow"},
		"dots":       {"", "", "node-kv/public/../private/app", `".." is not allowed`},
		"escape":     {"", "", "node-kv/public%2f..%2fprivate/app", `".." is not allowed`},
	} {
		mark := l.Mark()
		failed, err := l.Submit(fmt.Sprintf(job, "node-token-"+name, bad.env, bad.config, bad.path)).Failed(l.Ctx)
		require.NoError(t, err, name)
		_, err = failed.WaitEvent(l.Ctx, "app", bad.says)
		require.NoError(t, err, name)
		requests, err := v.Requests(mark)
		require.NoError(t, err)
		for _, r := range requests {
			require.NotEqual(t, made.Auth.Accessor, r.Accessor, "%s: sent to %s", name, r.Path)
		}
	}
}
