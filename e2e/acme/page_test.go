package acme

import (
	"crypto/rsa"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// pageBlocks are the examples of docs/acme.md, by a line of theirs, each with the test that runs it.
var pageBlocks = map[string]string{
	"make acme": "TestDocumentedConfiguration", // dry: other tests are running the program
	`vault kv put secret/acme-dns token="$DNS_TOKEN"`:                   "TestJobs",
	"nomad job run jobs/acme-issuer.nomad.hcl":                          "TestJobs",
	"nomad job run jobs/acme-web.nomad.hcl":                             "TestJobs",
	"vault kv metadata put -max-versions=2 secret/tls/acme-web":         "TestJobs",
	"nomad-acme-issuer -check -config acme.hcl":                         "TestDocumentedConfiguration",
	"nomad-acme-issuer -providers":                                      "TestDocumentedConfiguration",
	`  directory    = "https://acme-v02.api.letsencrypt.org/directory"`: "TestDocumentedConfiguration",
}

// page is the text of docs/acme.md.
func page(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("../../docs/acme.md")
	require.NoError(t, err)
	return string(content)
}

var fenced = regexp.MustCompile("(?ms)^( *)```(sh|hcl)\n(.*?)^ *```$")

// blocks are the page's examples, without the indentation of the lists that they are in.
func blocks(t *testing.T) (all []string) {
	t.Helper()
	for _, found := range fenced.FindAllStringSubmatch(page(t), -1) {
		all = append(all, strings.ReplaceAll("\n"+found[3], "\n"+found[1], "\n")[1:])
	}
	return all
}

// block is the example that has this line.
func block(t *testing.T, line string) string {
	t.Helper()
	require.Contains(t, pageBlocks, line)
	require.Equal(t, strings.SplitN(t.Name(), "/", 2)[0], pageBlocks[line], "the test that runs it")
	var found []string
	for _, block := range blocks(t) {
		if strings.Contains("\n"+block, "\n"+line+"\n") {
			found = append(found, block)
		}
	}
	require.Len(t, found, 1, "examples with the line %s", line)
	return found[0]
}

// Each example of the page is one that a test runs.
func TestPageHasNoOtherExamples(t *testing.T) {
	require.Len(t, blocks(t), len(pageBlocks))
	require.Equal(t, strings.Count(page(t), "```"), 2*len(pageBlocks))
}

// shell runs an example of the page in a directory, with the programs that are built here, and returns what it prints.
func (l *lab) shell(dir, script string, env ...string) string {
	l.t.Helper()
	cmd := exec.CommandContext(l.ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), l.vault.ShellEnv()...), env...)
	out, err := cmd.CombinedOutput()
	require.NoError(l.t, err, "%s", out)
	return string(out)
}

// The page's configuration, with the test authority and its DNS in the place of Let's Encrypt and Cloudflare: it is
// checked by the page's command, and then both certificates are what it says.
func TestDocumentedConfiguration(t *testing.T) {
	t.Parallel()
	const hmac = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	l := newLab(t, "documented", shared.Vault, harness.PebbleOptions{
		Bindings: map[string]string{"…": hmac},
		Profiles: map[string]time.Duration{"classic": 90 * 24 * time.Hour, "shortlived": 6 * 24 * time.Hour},
	})
	config := block(t, `  directory    = "https://acme-v02.api.letsencrypt.org/directory"`)
	for old, test := range map[string]string{
		`"https://acme-v02.api.letsencrypt.org/directory"`: fmt.Sprintf("%q\n  ca_cert = %q", l.pebble.Directory, l.pebble.CACert),
		`provider = "cloudflare"`: fmt.Sprintf("provider = \"httpreq\"\n  propagation_check = false\n  environment = { HTTPREQ_ENDPOINT = %q, HTTPREQ_POLLING_INTERVAL = \"1\" }",
			l.pebble.DNSAPI),
		"certificate \"example\"": fmt.Sprintf("dns_resolvers = [%q]\n\ncertificate \"example\"", l.pebble.DNS),
	} {
		require.Equal(t, 1, strings.Count(config, old), old)
		config = strings.Replace(config, old, test, 1)
	}
	require.NoError(t, l.vault.Policy(l.ctx, "acme-documented", `
		path "secret/data/acme/accounts/*" { capabilities = ["create", "read", "update"] }
		path "secret/data/acme/locks/*" { capabilities = ["create", "read", "update"] }
		path "secret/data/tls/example" { capabilities = ["create", "read", "update"] }
		path "secret/data/tls/shop" { capabilities = ["create", "read", "update"] }`))
	secrets := t.TempDir()
	l.jwtAuth("jwt-nomad", "acme-issuer", "acme-documented", time.Hour).write(filepath.Join(secrets, "nomad_acme.jwt"), time.Hour)
	port := freePort(t)
	env := []string{
		"NOMAD_SECRETS_DIR=" + secrets, "EAB_HMAC_KEY=" + hmac,
		fmt.Sprint("NOMAD_PORT_http=", port), fmt.Sprint("NOMAD_PORT_acme=", l.pebble.HTTPPort),
	}

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "acme.hcl"), []byte(config), 0o600))
	require.Equal(t, "acme.hcl: 2 certificates, 2 challenges: ok\n", l.shell(dir, block(t, "nomad-acme-issuer -check -config acme.hcl"), append(env, "VAULT_TOKEN=")...))
	require.Regexp(t, `^built in: .* exec .*httpreq .*rfc2136 .*\nnot built in: \S`, l.shell(dir, block(t, "nomad-acme-issuer -providers")))
	l.documentedInstall(block(t, "make acme"))

	i := l.start(config, "", env...)
	health := fmt.Sprintf("http://127.0.0.1:%d/health", port)
	l.until("the check to pass", func() error {
		code, body, err := l.httpGet(health)
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d: %s\n%s", code, body, i.out)
		}
		return err
	})
	l.issued("secret/tls/example", "example.com", "any.example.com")
	shop := l.issued("secret/tls/shop", "shop.example.com")
	require.Equal(t, 6*24*time.Hour, shop.Leaf.NotAfter.Sub(shop.Leaf.NotBefore).Round(time.Minute), "its profile")
	require.Equal(t, 2048, shop.PrivateKey.(*rsa.PrivateKey).N.BitLen())
	l.documentedMetrics(fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
}

// documentedInstall builds and installs the issuer by the page's commands, where no other test has it.
func (l *lab) documentedInstall(commands string) {
	l.t.Helper()
	program, err := issuerProgram()
	require.NoError(l.t, err)
	dir := l.t.TempDir()
	out := l.shell("../..", strings.NewReplacer(
		"make acme", "make --no-print-directory -n acme", "sudo ", "", " bin/nomad-acme-issuer", " "+program, "/usr/local/bin", dir+"/bin",
	).Replace(commands))
	require.Contains(l.t, out, "-o ../../bin/nomad-acme-issuer")
	require.FileExists(l.t, filepath.Join(dir, "bin", "nomad-acme-issuer"))
}

var metricName = regexp.MustCompile(`acme_issuer_\w+(?:\{[\w,]+\})?`)

// documentedMetrics compares the metrics that are served with the page's table: none is missing here or there. The one
// of failures is not served as long as there is none.
func (l *lab) documentedMetrics(url string) {
	l.t.Helper()
	_, body, err := l.httpGet(url)
	require.NoError(l.t, err)
	served := map[string]bool{"acme_issuer_certificate_failing{certificate,result}": true}
	values := regexp.MustCompile(`"[^"]*"`)
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "acme_issuer_") {
			name, _, _ := strings.Cut(line, " ")
			served[strings.ReplaceAll(values.ReplaceAllString(name, ""), "=", "")] = true
		}
	}
	inTable := map[string]bool{}
	for line := range strings.Lines(page(l.t)) {
		if strings.HasPrefix(line, "| `acme_issuer_") {
			inTable[metricName.FindString(line)] = true
			continue
		}
		for _, name := range metricName.FindAllString(line, -1) { // the alert's
			require.Contains(l.t, body, "\n"+name+"{")
		}
	}
	require.Equal(l.t, served, inTable)
}
