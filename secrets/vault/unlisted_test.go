package vault

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func TestMountLike(t *testing.T) {
	mounts := []mount{
		{path: "database/", typ: "database"}, {path: "team/kv/", typ: "kv"}, {path: "certificates/", typ: "pki"},
		{path: "rabbit-1/", typ: "rabbitmq"}, {path: "rabbit-2/", typ: "rabbitmq"}, {path: "identity/", typ: "identity"}, {path: "cubbyhole/", typ: "cubbyhole"},
	}
	for path, want := range map[string]string{
		"databse/creds/app":   "database/",
		"Database/creds/app":  "database/",
		"databsae/creds/app":  "database/",
		"team/k/app":          "team/kv/",
		"taem/kv/app":         "team/kv/",
		"team":                "",
		"pki/issue/web":       "certificates/",
		"rabbit-3/creds/app":  "rabbit-1/",
		"rabbitmq/creds/app":  "", // there are two
		"identiti/entity/app": "",
		"cubbyhol/app":        "",
		"secret/app":          "",
	} {
		must.EqOp(t, want, mountLike(mounts, path), must.Sprint(path))
	}
}

// On a real server: a mistyped mount is named, to a token that sees the right one.
func TestMistypedMount(t *testing.T) {
	s := startVault(t)
	s.admin(t, "POST", "sys/mounts/database", map[string]any{"type": "database"})
	tok := s.token(t, `path "database/creds/app" { capabilities = ["read"] }`)
	const hint = `this token sees no secrets engine at "databse/": is it mistyped for "database/"?`

	_, err := s.Read(t.Context(), tok, secrets.Request{Path: "databse/creds/app"})
	wantKind(t, err, secrets.Refused, "read databse/creds/app: permission denied; "+hint+` If not, a policy of the task's token needs: path "databse/creds/app" { capabilities = ["read"] }`)
	must.StrNotContains(t, err.Error(), "databse/data/")
	_, err = s.Read(t.Context(), tok, secrets.Request{Path: "databse/creds/app", Params: map[string]string{"ttl": "1h"}})
	wantKind(t, err, secrets.Refused, "not sent", hint)
	_, err = s.Read(t.Context(), rootTok(), secrets.Request{Path: "databse/creds/app"})
	must.StrContains(t, err.Error(), hint)
	_, err = s.Read(t.Context(), tok, secrets.Request{Path: "nowhere/app"})
	wantKind(t, err, secrets.Refused, "this token sees no secrets engine there. If there is one, a policy")
	must.EqOp(t, hint, s.SeenInstead(t.Context(), tok, "", "databse/creds/app"))
	must.EqOp(t, "", s.SeenInstead(t.Context(), tok, "", "database/cred/app"))

	// What all may read, and the typo on a mount that is seen.
	_, err = s.Read(t.Context(), rootTok(), secrets.Request{Path: "database/cred/app"})
	wantKind(t, err, secrets.NotFound, `is "cred/app" mistyped?`)
}

// Nothing is said of mounts that the server did not tell of.
func TestMountsNotListed(t *testing.T) {
	for name, list := range map[string]string{"refused": "403", "away": "503", "no list": `{"data":{}}`, "sees it": `{"data":{"secret":{"team/":{"type":"kv"},"taem/":{"type":"kv"}}}}`} {
		t.Run(name, func(t *testing.T) {
			fake := startFake(t, func(w http.ResponseWriter, r *http.Request) {
				status := http.StatusForbidden
				if r.URL.Path == "/v1/sys/internal/ui/mounts" {
					if _, err := fmt.Sscanf(list, "%d", &status); err != nil {
						fmt.Fprint(w, list)
						return
					}
				}
				w.WriteHeader(status)
			})
			_, err := newVault(t, Config{Address: fake.URL}).Read(t.Context(), rootTok(), secrets.Request{Path: "team/app"})
			wantKind(t, err, secrets.Refused, `read team/app: permission denied; a policy of the task's token needs: path "team/app"`)
		})
	}
}
