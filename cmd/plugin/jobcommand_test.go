package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// run runs a command as main does, with standard input.
func run(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	switch args[0] {
	case "check":
		status = checkCommand{strings.NewReader(stdin), &out, &errs}.Run(args[1:])
	case "policy":
		status = policyCommand{strings.NewReader(stdin), &out, &errs}.Run(args[1:])
	}
	return status, out.String(), errs.String()
}

const example = "../../jobs/readme.nomad.hcl"

func TestCheckCommand(t *testing.T) {
	t.Setenv("VAULT_ADDR", "")
	readme, err := os.ReadFile(example)
	must.NoError(t, err)
	broken := strings.ReplaceAll(string(readme), " path =", " pth =")
	variable := "variable \"role\" {}\n" + strings.ReplaceAll(string(readme), `"readme"

        secret`, `var.role

        secret`)
	for _, tc := range []struct {
		args, stdin    string
		status         int
		stdout, stderr string
	}{
		{"check " + example, "", 0, "database/creds/app", ""},
		{"check -", string(readme), 0, `identity "vault", role readme`, ""},
		{"check -json -", string(readme), 0, `"path": "database/creds/app"`, ""},
		{"check - -json", string(readme), 0, `"path": "database/creds/app"`, ""},
		{"check -", broken, 1, `stdin:28: error: task "app": secret "db": unknown key "pth"; did you mean "path"?`, ""},
		{"check -json -", broken, 1, `"at": "stdin:28"`, ""},
		{"check -", "nonsense {", 1, "stdin:1: error: ", ""},
		{"check -var role=other -", variable, 0, "role other", ""},
		{"check -", variable, 1, "stdin:1: error: ", ""},
		{"check", "", 2, "", "no job file given"},
		{"check a b", "", 2, "", "more than one job file given: a b"},
		{"check -nonsense a", "", 2, "", "Usage: nomad-driver-secrets check"},
		{"check /none", "", 2, "", "no such file"},
		{"check -live -", string(readme), 1, "database/creds/app", "no server to ask: set VAULT_ADDR"},
		{"check -live -json -", string(readme), 1, `"path": "database/creds/app"`, "no server to ask: set VAULT_ADDR"},
		{"policy -mount database=database " + example, "", 0, `path "database/creds/app" {`, ""},
		{"policy " + example, "", 0, "# Guessed: at database/ is an engine", ""},
		{"policy -role " + example, "", 0, "vault write 'auth/jwt-nomad/role/readme' -", ""},
		{"policy -role -auth-path nomad " + example, "", 0, "vault write 'auth/nomad/role/readme' -", ""},
		{"policy -json -", string(readme), 0, `"nomad_job_id": "readme"`, ""},
		{"policy -", strings.Replace(string(readme), `"database/creds/app"`, `"database/creds/${meta.x}"`, 1), 1, "# Not here: secret", "policy: not all of it is known here"},
		{"policy -", broken, 1, "", `policy: stdin:28: task "app": secret "db": unknown key "pth"`},
		{"policy -mount secret=kv -", string(readme), 2, "", "give kv1 or kv2"},
		{"policy -mount secret -", string(readme), 2, "", "give PATH=TYPE"},
		{"policy /none", "", 2, "", "no such file"},
		{"policy", "", 2, "", "Usage: nomad-driver-secrets policy"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			status, stdout, stderr := run(t, tc.stdin, strings.Fields(tc.args)...)
			must.Eq(t, tc.status, status, must.Sprint(stdout, stderr))
			must.StrContains(t, stdout, tc.stdout)
			must.StrContains(t, stderr, tc.stderr)
		})
	}
}

// Without a token a server is not asked, and nothing is guessed in silence.
func TestPolicyNeedsToken(t *testing.T) {
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	t.Setenv("VAULT_TOKEN", "")
	t.Setenv("HOME", t.TempDir())
	status, _, stderr := run(t, "", "policy", example)
	must.Eq(t, 1, status)
	must.StrContains(t, stderr, "set VAULT_TOKEN, or run vault login")
	status, _, _ = run(t, "", "policy", "-mount", "database=database", example)
	must.Eq(t, 0, status)
	must.NoError(t, os.WriteFile(filepath.Join(os.Getenv("HOME"), ".vault-token"), []byte("t\n"), 0o600))
	status, _, stderr = run(t, "", "policy", example)
	must.Eq(t, 1, status)
	must.StrContains(t, stderr, "look up the mount of database/creds/app: no answer")
}
