package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// checkJob has a secret for each thing that check -live tells of a path.
const checkJob = `job "check" {
  group "app" {
    constraint {
      attribute = "${attr.driver.raw_exec.secrets}"
      operator  = "is_set"
    }
    task "app" {
      driver = "raw_exec"` + lab.IdentityBlock + `
      config {
        command = "testapp"
        role    = "check"
        secret "kv2" {
          path  = "secret/check"
          files = true
        }
        secret "kv1" {
          path  = "check-kv1/check"
          files = true
        }
        secret "db" {
          path  = "check-database/creds/app"
          files = true
        }
        secret "typo" {
          path  = "check-database/cred/app"
          files = true
        }
        secret "forbidden" {
          path  = "secret/check-forbidden"
          files = true
        }
        secret "away" {
          path  = "check-nowhere/app"
          files = true
        }
      }
    }
  }
}
`

// checked is what of `check -json` is looked at.
type checked struct {
	Rights string
	Tasks  []struct {
		Secrets []struct {
			Name, Mount string
			Allowed     *bool
		}
	}
	Findings []struct{ Severity, Text string }
}

// check -live asks a real Vault for mounts and capabilities, and judges by the rights of the token that it was given. It reads no secret, and
// makes none.
func TestCheckLive(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	vault := l.Vault
	require.NoError(t, vault.EnableKV2(l.Ctx, "secret"))
	require.NoError(t, vault.EnableKV1(l.Ctx, "check-kv1"))
	require.NoError(t, vault.EnableDatabase(l.Ctx, "check-database", l.MariaDB))
	require.NoError(t, vault.Policy(l.Ctx, "check-live", `
path "secret/data/check" { capabilities = ["read"] }
path "check-kv1/check" { capabilities = ["read", "list"] }
path "check-database/creds/app" { capabilities = ["read"] }
path "check-database/cred/app" { capabilities = ["deny"] }
path "secret/data/check-forbidden" { capabilities = ["list"] }
`))
	token, err := vault.Client().Auth().Token().CreateWithContext(l.Ctx, &api.TokenCreateRequest{Policies: []string{"check-live"}, DisplayName: "jane"})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "check.nomad.hcl")
	require.NoError(t, os.WriteFile(path, []byte(checkJob), 0o600))
	check := func(token string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(l.Ctx, l.Agent.PluginFile("docker"), append(append([]string{"check", "-live"}, args...), path)...)
		cmd.Env = append(os.Environ(), "VAULT_ADDR="+vault.Addr, "VAULT_TOKEN="+token, "VAULT_NAMESPACE=")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}

	since := l.Mark()
	out := check(token.Auth.ClientToken, "-json")
	var r checked
	require.NoError(t, json.Unmarshal([]byte(out), &r), out)
	require.Contains(t, r.Rights, "token-jane")
	require.NotContains(t, out, token.Auth.ClientToken)
	mounts, allowed := map[string]string{}, map[string]bool{}
	for _, s := range r.Tasks[0].Secrets {
		mounts[s.Name] = s.Mount
		allowed[s.Name] = s.Allowed != nil && *s.Allowed
	}
	require.Equal(t, map[string]string{"kv2": "kv v2", "kv1": "kv", "db": "database", "typo": "database", "forbidden": "kv v2", "away": ""}, mounts)
	require.Equal(t, map[string]bool{"kv2": true, "kv1": true, "db": false, "typo": false, "forbidden": false, "away": false}, allowed)
	for _, want := range []string{
		`secret "db": this token may not update sys/leases/revoke (it has: deny)`,
		`the engine "database" has credentials at creds/ and static-creds/: is "cred/app" mistyped?`,
		`secret "typo": this token may not read check-database/cred/app (it has: deny)`,
		`secret "forbidden": this token may not read secret/data/check-forbidden (it has: list)`,
		`secret "away": path "check-nowhere/app": no engine is mounted there, or this token has no right on it`,
	} {
		require.True(t, containsFinding(r, want), "%s is not in\n%s", want, out)
	}
	requests, err := vault.Requests(since, "secret/", "check-kv1/", "check-database/")
	require.NoError(t, err)
	for _, request := range requests {
		require.NotEqual(t, token.Auth.Accessor, request.Accessor, "%+v", request)
	}

	// For people; and root's rights are others.
	require.Contains(t, check(token.Auth.ClientToken), "Judged by the rights of the token ")
	out = check(vault.RootToken, "-json")
	require.NotContains(t, out, "this token may not")
	require.Contains(t, out, "mistyped?")
}

func containsFinding(r checked, text string) bool {
	for _, f := range r.Findings {
		if strings.Contains(f.Text, text) {
			return true
		}
	}
	return false
}
