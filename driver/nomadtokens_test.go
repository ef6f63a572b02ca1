package driver

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func jwtOf(subject string, expires int) string {
	payload := fmt.Sprintf(`{"sub":%q,"exp":%d}`, subject, expires)
	return "h." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".s"
}

// C13: a process that a rotation starts gets Nomad's tokens as they are now, not those of the task's first process. In
// the secrets directory a task may put what it likes: only a later JWT of the same identity is taken.
func TestNewProcessGetsCurrentTokens(t *testing.T) {
	r := &fakeRunner{inner: newFakeInner()}
	tk := fakeTask(t, r)
	dir := tk.cfg.TaskDir().Dir
	write := func(rel, content string) {
		path := filepath.Join(dir, rel)
		_ = os.Remove(path)
		must.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	const of = "global:default:web:group:web:"
	tk.cfg.Env = map[string]string{
		"OWN": "kept", vaultTokenEnv: "hvs.old",
		"NOMAD_TOKEN": jwtOf(of+"default", 10), "NOMAD_TOKEN_aws": jwtOf(of+"aws", 10), "NOMAD_TOKEN_vault": jwtOf(of+"vault", 10),
		"NOMAD_TOKEN_gone": jwtOf(of+"gone", 10), "NOMAD_TOKEN_opaque": "not a JWT",
	}
	tk.session = &fakeSession{spec: &secrets.Spec{IdentityFile: "private/vault.jwt"}}
	write("private/vault_token", "hvs.new")
	write("private/vault.jwt", jwtOf(of+"vault", 20))
	write("secrets/nomad_token", jwtOf(of+"default", 20))
	write("secrets/nomad_aws.jwt", jwtOf(of+"aws", 20))
	write("secrets/nomad_opaque.jwt", "root's own")

	want := map[string]string{
		"OWN": "kept", vaultTokenEnv: "hvs.new",
		"NOMAD_TOKEN": jwtOf(of+"default", 20), "NOMAD_TOKEN_aws": jwtOf(of+"aws", 20), "NOMAD_TOKEN_vault": jwtOf(of+"vault", 20),
		"NOMAD_TOKEN_gone": jwtOf(of+"gone", 10), "NOMAD_TOKEN_opaque": "not a JWT",
	}
	env := func() map[string]string {
		cfg, err := tk.innerConfig(nil, map[string]any{})
		must.NoError(t, err)
		return cfg.Env
	}
	must.Eq(t, want, env())
	must.SliceContains(t, tk.environ(&secrets.Set{}), "VAULT_TOKEN=hvs.new")

	for name, attack := range map[string]func(path string){
		"another identity's": func(path string) { write("secrets/nomad_aws.jwt", jwtOf("global:default:db:group:db:aws", 99)) },
		"an older one":       func(path string) { write("secrets/nomad_aws.jwt", jwtOf(of+"aws", 5)) },
		"a link to root's": func(path string) {
			write("private/other", jwtOf(of+"aws", 30))
			must.NoError(t, os.Remove(path))
			must.NoError(t, os.Symlink("../private/other", path))
		},
	} {
		attack(filepath.Join(dir, "secrets/nomad_aws.jwt"))
		must.EqOp(t, jwtOf(of+"aws", 10), env()["NOMAD_TOKEN_aws"], must.Sprint(name))
	}

	first := &task{d: tk.d, cfg: tk.cfg, runner: r, session: tk.session}
	cfg, err := first.innerConfig(nil, map[string]any{})
	must.NoError(t, err)
	must.Eq(t, tk.cfg.Env, cfg.Env, must.Sprint("Nomad has just made them"))
}
