package acme

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// lab is a test with a Vault, an authority, and a name of its own: its account and locks are at secret/acme/NAME,
// its certificates below secret/tls/NAME.
type lab struct {
	t      *testing.T
	ctx    context.Context
	name   string
	vault  *harness.Vault
	pebble *harness.Pebble
}

// testTimeout is for a loaded machine: none takes half of it on one that is not.
const testTimeout = 10 * time.Minute

// newLab makes an authority for a test.
func newLab(t *testing.T, name string, vault *harness.Vault, opts harness.PebbleOptions) *lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	pebble, err := shared.NewPebble(ctx, "pebble-"+name, opts)
	require.NoError(t, err)
	t.Cleanup(pebble.Stop)
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := pebble.Log()
			t.Logf("the end of pebble's log:\n%s", log[max(0, len(log)-4000):])
		}
	})
	return &lab{t: t, ctx: ctx, name: name, vault: vault, pebble: pebble}
}

// path is where a certificate is kept.
func (l *lab) path(name string) string { return "secret/tls/" + l.name + "/" + name }

// token is one that may do what the issuer needs, and no more.
func (l *lab) token() string {
	l.t.Helper()
	policy := fmt.Sprintf(`
		path "secret/data/acme/%[1]s/*" { capabilities = ["create", "read", "update"] }
		path "secret/data/tls/%[1]s/*" { capabilities = ["create", "read", "update"] }
		path "kv1/tls/%[1]s/*" { capabilities = ["create", "read", "update"] }`, l.name)
	require.NoError(l.t, l.vault.Policy(l.ctx, "issuer-"+l.name, policy))
	secret, err := l.vault.Client().Auth().Token().CreateWithContext(l.ctx, &api.TokenCreateRequest{Policies: []string{"issuer-" + l.name}})
	require.NoError(l.t, err)
	return secret.Auth.ClientToken
}

// head is what all configurations have: the account, the storage, and the challenge "zone", dns-01.
func (l *lab) head() string {
	return fmt.Sprintf(`account {
  directory    = %q
  ca_cert      = %q
  email        = "ops@example.com"
  accept_terms = true
}
storage {
  path = "secret/acme/%s"
}
dns_resolvers = [%q]
challenge "dns-01" "zone" {
  provider          = "httpreq"
  propagation_check = false
  environment = {
    HTTPREQ_ENDPOINT         = %q
    HTTPREQ_POLLING_INTERVAL = "1"
  }
}
`, l.pebble.Directory, l.pebble.CACert, l.name, l.pebble.DNS, l.pebble.DNSAPI)
}

// certificate is a block for one by the challenge "zone".
func (l *lab) certificate(name, profile string, domains ...string) string {
	return fmt.Sprintf(`certificate %q {
  domains   = ["%s"]
  challenge = "zone"
  profile   = %q
  path      = %q
}
`, name, strings.Join(domains, `", "`), profile, l.path(name))
}

// issuer is a process of the program.
type issuer struct {
	*lab
	cmd  *exec.Cmd
	out  *output
	done chan error
}

// output collects what a process prints, while it runs.
type output struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all.String()
}

// start starts the program on a configuration. With no variables it has a token of its own.
func (l *lab) start(config, mode string, env ...string) *issuer {
	l.t.Helper()
	program, err := issuerProgram()
	require.NoError(l.t, err)
	dir := l.t.TempDir()
	require.NoError(l.t, os.WriteFile(filepath.Join(dir, "acme.hcl"), []byte(config), 0o600))
	args := []string{"-config", "acme.hcl"}
	if mode != "" {
		args = append(args, mode)
	}
	i := &issuer{lab: l, cmd: exec.Command(program, args...), out: new(output), done: make(chan error, 1)}
	i.cmd.Dir = dir
	i.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "VAULT_ADDR=" + l.vault.Addr}, env...)
	if len(env) == 0 {
		i.cmd.Env = append(i.cmd.Env, "VAULT_TOKEN="+l.token())
	}
	i.cmd.Stdout, i.cmd.Stderr = i.out, i.out
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(l.t, i.cmd.Start())
	go func() { i.done <- i.cmd.Wait() }()
	l.t.Cleanup(func() {
		i.kill()
		if l.t.Failed() {
			l.t.Logf("an issuer printed:\n%s", i.out)
		}
	})
	return i
}

func issuerProgram() (string, error) {
	root, err := harness.RepoRoot()
	return filepath.Join(root, "bin", "nomad-acme-issuer"), err
}

// kill ends the process at once. It returns when it has ended.
func (i *issuer) kill() {
	_ = i.cmd.Process.Kill()
	i.done <- <-i.done
}

// status waits for the end of the process.
func (i *issuer) status() int {
	i.t.Helper()
	select {
	case err := <-i.done:
		i.done <- err
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			require.NoError(i.t, err)
		}
		return i.cmd.ProcessState.ExitCode()
	case <-i.ctx.Done():
		i.t.Fatalf("the issuer has not ended: %s", i.out)
		return 0
	}
}

// stored is the certificate that Vault has at a path, with its key; nil if there is none. One without its key is
// a failure.
func (l *lab) stored(path string) *tls.Certificate {
	l.t.Helper()
	fields := l.fields(path)
	if fields == nil {
		return nil
	}
	pair, err := tls.X509KeyPair([]byte(fields["fullchain"].(string)), []byte(fields["private_key"].(string)))
	require.NoError(l.t, err)
	return &pair
}

func (l *lab) fields(path string) map[string]any {
	l.t.Helper()
	secret, err := l.vault.Client().KVv2("secret").Get(l.ctx, strings.TrimPrefix(path, "secret/"))
	if errors.Is(err, api.ErrSecretNotFound) {
		return nil
	}
	require.NoError(l.t, err)
	return secret.Data
}

// issued checks that a certificate is there, and that a client that trusts the authority takes it for these
// domains.
func (l *lab) issued(path string, domains ...string) *tls.Certificate {
	l.t.Helper()
	pair := l.stored(path)
	require.NotNil(l.t, pair, "nothing is at %s", path)
	roots, err := l.pebble.Roots(l.ctx)
	require.NoError(l.t, err)
	intermediates := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		require.NoError(l.t, err)
		intermediates.AddCert(cert)
	}
	for _, domain := range domains {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: domain, Roots: roots, Intermediates: intermediates})
		require.NoError(l.t, err)
	}
	return pair
}

func serial(pair *tls.Certificate) string { return pair.Leaf.SerialNumber.Text(16) }

// leafPEM is a certificate as the authority's management wants it.
func leafPEM(pair *tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
}

func (l *lab) until(what string, cond func() error) {
	l.t.Helper()
	require.NoError(l.t, harness.Until(l.ctx, what, cond))
}

// httpGet is a GET's status and answer.
func (l *lab) httpGet(url string) (int, string, error) {
	req, err := http.NewRequestWithContext(l.ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}
