package vault

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A path of an engine that has nothing there is said to be mistyped, by the engine or by its looks.
func TestMistyped(t *testing.T) {
	database, kv := Mount{"database/", "database", false}, Mount{"secret/", "kv", true}
	pki, ldap := Mount{"pki/", "pki", false}, Mount{"ldap/", "ldap", false}
	for _, tc := range []struct {
		path  string
		write bool
		m     Mount
		want  string
	}{
		{"database/cred/app", false, database, `the engine "database" has credentials at creds/ and static-creds/: is "cred/app" mistyped?`},
		{"database/app", false, database, `is "app" mistyped?`},
		{"database/creds/app", false, database, ""},
		{"database/static-creds/app", false, database, ""},
		{"secret/cred/app", false, kv, ""},
		{"database/library/a/check-out", false, database, `is "library/a/check-out" mistyped?`},
		{"pki/isue/web", true, pki, `the engine "pki" has credentials at issue/ and sign/: is "isue/web" mistyped?`},
		{"pki/role/web", true, pki, `is "role/web" mistyped?`},
		{"pki/issue/web", true, pki, ""},
		{"pki/sign-verbatim/web", true, pki, ""},
		{"pki/cert/ca_chain", false, pki, ""},
		{"pki/ca_chain", false, pki, ""},
		{"pki/issuer/default/issue/web", true, pki, ""},
		{"ssh/sing/web", true, Mount{"ssh/", "ssh", false}, `is "sing/web" mistyped?`},
		{"ssh/config/ca", false, Mount{"ssh/", "ssh", false}, ""},
		{"k8s/cred/app", true, Mount{"k8s/", "kubernetes", false}, `the engine "kubernetes" has credentials at creds/: is "cred/app" mistyped?`},
		{"aws/sts/app", true, Mount{"aws/", "aws", false}, ""},
		{"transit/exprot/encryption-key/app", false, Mount{"transit/", "transit", false}, `is "exprot/encryption-key/app" mistyped?`},
		{"transit/export/encryption-key/app", false, Mount{"transit/", "transit", false}, ""},
		{"gcp/roleset/app/key", false, Mount{"gcp/", "gcp", false}, ""},
		{"gcp/static-account/app/token", false, Mount{"gcp/", "gcp", false}, ""},
		{"gcp/rolset/app/key", false, Mount{"gcp/", "gcp", false}, `is "rolset/app/key" mistyped?`},
		{"ldap/library/app/check-out", true, ldap, ""},
		{"ldap/library/app/checkout", true, ldap, `the engine "ldap" has credentials at creds/ and static-cred/ and library/NAME/check-out: is "library/app/checkout" mistyped?`},
		{"ours/anything/app", false, Mount{"ours/", "our-own-engine", false}, ""},
		{"x/anything/app", false, Mount{"x/", UnknownType, false}, ""},
		{"database/cred/app", false, Mount{}, `is "cred/" mistyped for "creds/"?`},
		{"database/static_creds/app", false, Mount{}, `is "static_creds/" mistyped for "static-creds/"?`},
		{"pki/isue/web", true, Mount{}, `is "isue/" mistyped for "issue/"?`},
		{"pki/issue/web", false, Mount{}, "issue/ and sign/ of a pki or ssh engine take parameters: give the secret params."},
		{"pki/issue/web", true, Mount{}, ""},
		{"secret/app-1", false, Mount{}, ""},
		{"secret/app/db", false, Mount{}, ""},
		{"secret/cred/db", false, Mount{}, ""},
		{"team/users/db", false, Mount{}, ""},
		{"db/cerds/app", false, Mount{}, `is "cerds/" mistyped for "creds/"?`},
		{"secret/data/app", false, Mount{}, ""},
		{"secret/teams/a/b", false, Mount{}, ""},
	} {
		req := secrets.Request{Path: tc.path}
		if tc.write {
			req.Params = map[string]string{}
		}
		if got := Mistyped(req, tc.m); tc.want == "" {
			must.EqOp(t, "", got, must.Sprint(tc.path))
		} else {
			must.StrContains(t, got, tc.want)
		}
	}
}

// A refusal does not ask to grant a path that is likely mistyped, and nothing else; nor does an answer that nothing is there leave
// unsaid what is likely meant.
func TestRefusalOfMistypedPath(t *testing.T) {
	const read, write = `"read"`, `"create", "update"`
	database, pki := mount{path: "database/", typ: "database"}, mount{path: "pki/", typ: "pki"}
	like := mount{unlisted: unlisted{listed: true, instead: "database/"}}
	for _, tc := range []struct {
		path, capabilities string
		m                  mount
		status             int
		want               string
	}{
		{"database/cred/app", read, database, 403, `read: permission denied; the engine "database" has credentials at creds/ and static-creds/: is "cred/app" mistyped? If not, a policy of the task's token needs: path "database/cred/app" { capabilities = ["read"] }`},
		{"database/cred/app", read, database, 404, `read: nothing is there; the engine "database" has credentials at creds/ and static-creds/: is "cred/app" mistyped?`},
		{"database/cred/app", read, database, 405, `read: the server answers 405 method not allowed; the engine "database" has credentials at creds/ and static-creds/: is "cred/app" mistyped?`},
		{"database/creds/app", read, database, 404, `read: nothing is there`},
		{"pki/isue/web", write, pki, 403, `read: permission denied; the engine "pki" has credentials at issue/ and sign/: is "isue/web" mistyped? If not, a policy of the task's token needs: path "pki/isue/web" { capabilities = ["create", "update"] }`},
		{"pki/issue/web", read, mount{}, 403, `read: permission denied; issue/ and sign/ of a pki or ssh engine take parameters: give the secret params. With them a policy of the task's token needs: path "pki/issue/web" { capabilities = ["update"] } (if pki/ is a KV version 2: path "pki/data/issue/web" { capabilities = ["read"] })`},
		{"databse/creds/app", read, like, 403, `read: permission denied; this token sees no secrets engine at "databse/": is it mistyped for "database/"? If not, a policy of the task's token needs: path "databse/creds/app" { capabilities = ["read"] }`},
		{"databse/creds/app", read, like, 404, `read: nothing is there; this token sees no secrets engine at "databse/": is it mistyped for "database/"?`},
		{"team/app", read, mount{unlisted: unlisted{listed: true}}, 403, `read: permission denied; this token sees no secrets engine there. If there is one, a policy of the task's token needs: path "team/app" { capabilities = ["read"] } (if team/ is a KV version 2: path "team/data/app" { capabilities = ["read"] })`},
		{"team/app", read, mount{}, 403, `read: permission denied; a policy of the task's token needs: path "team/app" { capabilities = ["read"] } (if team/ is a KV version 2: path "team/data/app" { capabilities = ["read"] })`},
		{"sys/leases/renew", `"update"`, mount{}, 403, `read: permission denied; a policy of the task's token needs: path "sys/leases/renew" { capabilities = ["update"] }`},
		{"auth/token/renew-self", "", mount{}, 404, `read: nothing is there`},
	} {
		e := request{operation: "read", path: tc.path, capabilities: tc.capabilities, mount: tc.m}
		must.EqOp(t, tc.want, e.refusal(reply{status: tc.status}).Error())
	}
}
