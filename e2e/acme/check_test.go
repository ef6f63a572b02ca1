package acme

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Bad configuration, each with its place and what would be right. Nothing is asked of the authority, and nothing
// written.
func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	l := newLab(t, "bad", shared.Vault, harness.PebbleOptions{})
	require.NoError(t, l.vault.EnableKV1(l.ctx, "kv1"))
	var requests atomic.Int32
	l.pebble.Seen(func(*http.Request) { requests.Add(1) })
	good := l.head() + l.certificate("one", "default", "one.example.com") + l.certificate("two", "default", "two.example.com") +
		"challenge \"http-01\" \"web\" {\n  address = \":0\"\n}\n"
	i := l.start(good, "-check")
	require.Equal(t, 0, i.status(), "%s", i.out)
	require.Equal(t, "acme.hcl: 2 certificates, 2 challenges: ok\n", i.out.String())

	for name, test := range map[string]struct{ old, new, want string }{
		"unknown provider":    {`"httpreq"`, `"httpreg"`, `acme.hcl:12,3: unknown provider "httpreg": none of lego's is named so; there are httpnet, httpreq: lego's documentation lists the names`},
		"not built in":        {`"httpreq"`, `"linode"`, `acme.hcl:12,3: provider "linode" is not built in`},
		"missing variable":    {"HTTPREQ_ENDPOINT", "HTTPREQ_ENDPOINTS", `acme.hcl:12,3: provider "httpreq" cannot be used: httpreq: some credentials information are missing: HTTPREQ_ENDPOINT: set its variables`},
		"wildcard by http-01": {`["two.example.com"]` + "\n  challenge = \"zone\"", `["*.example.com"]` + "\n  challenge = \"web\"", `acme.hcl:26,3: wildcard "*.example.com" by http-01: authorities give wildcards by dns-01 only: name a dns-01 challenge`},
		"KV v1":               {l.path("two"), "kv1/tls/bad/two", `acme.hcl:29,3: certificate "two" cannot be kept at kv1/tls/bad/two: not a KV v2 path: kv1/ is of type kv version 1, and only KV v2 can check`},
		"a path without rights": {l.path("two"), "secret/elsewhere/two",
			`acme.hcl:29,3: certificate "two" cannot be kept at secret/elsewhere/two: permission denied (policy needs: path "secret/data/elsewhere/two" { capabilities = ["create", "read", "update"] })`},
		"storage without rights": {"secret/acme/bad", "secret/acme/else", `acme.hcl:8,3: the account cannot be kept at secret/acme/else/accounts/any: permission denied (policy needs: path "secret/data/acme/else/accounts/any"`},
		"no mount":               {l.path("two"), "nowhere/two", `acme.hcl:29,3: certificate "two" cannot be kept at nowhere/two: nothing is mounted there, or: permission denied`},
		"two certificates on one path": {l.path("two"), l.path("one"),
			`acme.hcl:29,3: certificates "one" and "two" have one path: each would replace the other's; that one's is at acme.hcl:23`},
	} {
		t.Run(name, func(t *testing.T) {
			of := *l
			of.t = t
			require.Contains(t, good, test.old)
			at := strings.LastIndex(good, test.old)
			i := of.start(good[:at]+test.new+good[at+len(test.old):], "-check")
			require.Equal(t, 2, i.status(), "%s", i.out)
			require.Contains(t, i.out.String(), test.want)
		})
	}
	require.Zero(t, requests.Load(), "requests to the authority")
	require.Nil(t, l.fields(l.path("one")))
}

// The job's own configuration is right, and its policy is enough; each of its lines is needed.
func TestJobsPolicyIsEnough(t *testing.T) {
	t.Parallel()
	l := newLab(t, "policy", shared.Vault, harness.PebbleOptions{})
	job, err := os.ReadFile("../../jobs/acme-issuer.nomad.hcl")
	require.NoError(t, err)
	config := regexp.MustCompile(`(?s)<<-HCL\n(.*?)\n  HCL`).FindSubmatch(job)
	require.NotNil(t, config)
	text := strings.ReplaceAll(string(config[1]), "$${", "${")
	text = regexp.MustCompile(`(?s)vault \{.*?\n    \}\n`).ReplaceAllString(text, "")
	policy, err := os.ReadFile("../../jobs/policies/acme-issuer.hcl")
	require.NoError(t, err)
	check := func(policy string) *issuer {
		require.NoError(t, l.vault.Policy(l.ctx, "acme-check", policy))
		secret, err := l.vault.Client().Auth().Token().CreateWithContext(l.ctx, &api.TokenCreateRequest{Policies: []string{"acme-check"}})
		require.NoError(t, err)
		return l.start(text, "-check", "VAULT_TOKEN="+secret.Auth.ClientToken, "NOMAD_PORT_http=1234", "CLOUDFLARE_DNS_API_TOKEN=canary")
	}
	i := check(string(policy))
	require.Equal(t, 0, i.status(), "%s", i.out)
	for _, line := range []string{"secret/data/acme/*", "secret/data/tls/acme-web"} {
		for _, capability := range []string{"create", "read", "update"} {
			stanza := fmt.Sprintf("path %q {\n  capabilities = [\"create\", \"read\", \"update\"]", line)
			require.Contains(t, string(policy), stanza)
			without := strings.NewReplacer(fmt.Sprintf("%q, ", capability), "", fmt.Sprintf(", %q", capability), "").Replace(stanza)
			i := check(strings.Replace(string(policy), stanza, without, 1))
			require.Equal(t, 2, i.status(), "without %s on %s: %s", capability, line, i.out)
			require.Contains(t, i.out.String(), fmt.Sprintf("capabilities = [%q]", capability))
			require.Contains(t, i.out.String(), strings.TrimSuffix(line, "*"))
		}
	}
}

// The token of a vault block is followed: Nomad replaces it in its file.
func TestTokenIsFollowed(t *testing.T) {
	t.Parallel()
	l := newLab(t, "token", shared.Vault, harness.PebbleOptions{})
	secrets := t.TempDir()
	file := filepath.Join(secrets, "vault_token")
	first := l.token()
	require.NoError(t, os.WriteFile(file, []byte(first), 0o600))
	port := freePort(t)
	i := l.start(l.head()+l.certificate("web", "default", "token.example.com")+
		fmt.Sprintf("http {\n address = \"127.0.0.1:%d\"\n}\n", port), "", "NOMAD_SECRETS_DIR="+secrets)
	health := func(want int) {
		t.Helper()
		l.until(fmt.Sprintf("a check with %d", want), func() error {
			code, body, err := l.httpGet(fmt.Sprintf("http://127.0.0.1:%d/health", port))
			if err == nil && code != want {
				err = fmt.Errorf("%d: %s\n%s", code, body, i.out)
			}
			return err
		})
	}
	health(http.StatusOK)
	l.issued(l.path("web"), "token.example.com")
	require.NoError(t, l.vault.Client().Auth().Token().RevokeTreeWithContext(l.ctx, first))
	health(http.StatusServiceUnavailable)
	require.NoError(t, os.WriteFile(file, []byte(l.token()), 0o600))
	health(http.StatusOK)
}
