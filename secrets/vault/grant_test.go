package vault

import (
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func TestGrants(t *testing.T) {
	write := map[string]string{"x": "y"}
	leased := Grant{"sys/leases/revoke", []string{"update"}}
	for _, tc := range []struct {
		path   string
		params map[string]string
		m      Mount
		want   []Grant
	}{
		{"secret/a", nil, Mount{"secret/", "kv", true}, []Grant{{"secret/data/a", []string{"read"}}}},
		{"secret/data/a", nil, Mount{"secret/", "kv", true}, []Grant{{"secret/data/a", []string{"read"}}}},
		{"kv1/a", nil, Mount{"kv1/", "kv", false}, []Grant{{"kv1/a", []string{"read"}}}},
		{"database/creds/a", nil, Mount{"database/", "database", false}, []Grant{{"database/creds/a", []string{"read"}}, leased}},
		{"database/static-creds/a", nil, Mount{"database/", "database", false}, []Grant{{"database/static-creds/a", []string{"read"}}}},
		{"pki/issue/a", write, Mount{"pki/", "pki", false}, []Grant{{"pki/issue/a", []string{"update"}}}},
		{"pki/cert/ca", nil, Mount{"pki/", "pki", false}, []Grant{{"pki/cert/ca", []string{"read"}}}},
		{"ssh/config/ca", nil, Mount{"ssh/", "ssh", false}, []Grant{{"ssh/config/ca", []string{"read"}}}},
		{"aws/sts/a", write, Mount{"aws/", "aws", false}, []Grant{{"aws/sts/a", []string{"update"}}, leased}},
		{"k8s/creds/a", write, Mount{"k8s/", "kubernetes", false}, []Grant{{"k8s/creds/a", []string{"update"}}, leased}},
		{"cubbyhole/a", nil, Mount{"cubbyhole/", "cubbyhole", false}, nil},
		{"x/creds/a", nil, Mount{"x/", UnknownType, false}, []Grant{{"x/creds/a", []string{"read"}}, leased}},
		{"x/sts/a", nil, Mount{"x/", "our-own-engine", false}, []Grant{{"x/sts/a", []string{"read"}}, leased}},
		{"x/creds/a", nil, Mount{"x/", "our-own-engine", false}, []Grant{{"x/creds/a", []string{"read"}}, leased}},
		{"x/other/a", nil, Mount{"x/", "our-own-engine", false}, []Grant{{"x/other/a", []string{"read"}}}},
		{"kv1/creds/a", nil, Mount{"kv1/", "kv", false}, []Grant{{"kv1/creds/a", []string{"read"}}}},
		{"old/creds/a", nil, Mount{"old/", "generic", false}, []Grant{{"old/creds/a", []string{"read"}}}},
		{"ssh/creds/a", write, Mount{"ssh/", "ssh", false}, []Grant{{"ssh/creds/a", []string{"update"}}, leased}},
		{"ssh/sign/a", write, Mount{"ssh/", "ssh", false}, []Grant{{"ssh/sign/a", []string{"update"}}}},
		{"gcp/roleset/a/key", nil, Mount{"gcp/", "gcp", false}, []Grant{{"gcp/roleset/a/key", []string{"read"}}, leased}},
		{"gcp/static-account/a/key", nil, Mount{"gcp/", "gcp", false}, []Grant{{"gcp/static-account/a/key", []string{"read"}}, leased}},
		{"gcp/key/a", nil, Mount{"gcp/", "gcp", false}, []Grant{{"gcp/key/a", []string{"read"}}, leased}},
		{"gcp/roleset/a/token", nil, Mount{"gcp/", "gcp", false}, []Grant{{"gcp/roleset/a/token", []string{"read"}}}},
		{"ldap/creds/a/b", nil, Mount{"ldap/", "ldap", false}, []Grant{{"ldap/creds/a/b", []string{"read"}}, leased}},
		{"ldap/static-cred/a", nil, Mount{"ldap/", "ldap", false}, []Grant{{"ldap/static-cred/a", []string{"read"}}}},
		{"ldap/library/a/check-out", write, Mount{"ldap/", "ldap", false}, []Grant{{"ldap/library/a/check-out", []string{"update"}}, leased}},
	} {
		got, err := Grants(secrets.Request{Path: tc.path, Params: tc.params}, tc.m)
		must.NoError(t, err)
		must.Eq(t, tc.want, got, must.Sprint(tc.path))
	}
	_, err := Grants(secrets.Request{Path: "secret/a", Params: write}, Mount{"secret/", "kv", true})
	must.ErrorContains(t, err, "`params` would overwrite the secret")
	_, err = Grants(secrets.Request{Path: "pki/issue/web"}, Mount{"pki/", "pki", false})
	must.ErrorContains(t, err, "give the secret `params`")
}

func TestGuessMount(t *testing.T) {
	must.Eq(t, Mount{"secret/", "kv", true}, GuessMount(secrets.Request{Path: "secret/creds"}))
	must.Eq(t, Mount{"db/", UnknownType, false}, GuessMount(secrets.Request{Path: "db/creds/a"}))
	must.Eq(t, Mount{"pki/", UnknownType, false}, GuessMount(secrets.Request{Path: "pki/issue/a", Params: map[string]string{}}))
	must.Eq(t, Mount{"cubbyhole/", "cubbyhole", false}, GuessMount(secrets.Request{Path: "cubbyhole/a"}))
}

// What is asked about paths on a real server.
func TestInspect(t *testing.T) {
	s := startVault(t)
	m, known, err := s.MountOf(t.Context(), rootTok(), "", "secret/app")
	must.NoError(t, err)
	must.True(t, known)
	must.Eq(t, Mount{"secret/", "kv", true}, m)
	_, known, err = s.MountOf(t.Context(), rootTok(), "", "nowhere/app")
	must.NoError(t, err)
	must.False(t, known)

	tok := s.token(t, `path "secret/data/app" { capabilities = ["read"] }`)
	has, err := s.Capabilities(t.Context(), tok, "", []string{"secret/data/app", "secret/data/other"})
	must.NoError(t, err)
	must.Eq(t, map[string][]string{"secret/data/app": {"read"}, "secret/data/other": {"deny"}}, has)
	whose, err := s.Whose(t.Context(), tok)
	must.NoError(t, err)
	must.StrContains(t, whose, "(policies: default, ")
	_, err = s.Whose(t.Context(), secrets.Token{Value: secrets.TextValue("none")})
	must.Error(t, err)
}
