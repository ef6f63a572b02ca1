package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
)

// A certificate for a key that is made on the node, as files and as keystores that OpenSSL and Java read; the next
// certificate is for another key, or, with reuse_key, for the same. Vault is sent no key: its audit log has the certificates and none of
// the keys.
func TestKeyMadeOnTheNode(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	require.NoError(t, l.Vault.EnablePKI(l.Ctx, "own-key", "web"))
	require.NoError(t, l.Vault.Policy(l.Ctx, "own-key", `path "own-key/sign/web" { capabilities = ["update"] }`))
	l.AllowRole("own-key")
	l.WriteVault("own-key/roles/web", map[string]any{
		"allowed_domains": "example.com", "allow_subdomains": true, "key_type": "any", "max_ttl": "72h",
	})

	for _, c := range []struct{ driver, key, reuse string }{
		{"docker", "ec", "false"}, {"raw_exec", "ed25519", "true"}, {"raw_exec", "rsa", "false"},
	} {
		driver, reuse := c.driver, c.reuse
		t.Run(driver+" "+c.key, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			alloc := l.RunAll(lab.Job{ID: "own-key-" + c.key, Driver: driver, Role: "own-key",
				Run: []string{"/bin/sh", "-c", "exec testapp sleep"},
				// A minute is the shortest life that there may be.
				Config: `secret "tls" {
					path        = "own-key/sign/web"
					params      = { ttl = "60s" }
					change_mode = "noop"
					splay       = "0s"
					csr {
						common_name = "web.example.com"
						key_type    = "` + c.key + `"
						reuse_key   = ` + reuse + `
					}
					file "cert.pem" { field = "certificate" }
					file "key.pem" { field = "private_key" }
					file "web.p12" { template = "{{ pkcs12 .certificate .private_key .ca_chain \"changeit\" }}" }
					file "web.jks" { template = "{{ jks .certificate .private_key .ca_chain \"changeit\" }}" }
				}`})[0]
			at := func(name string) string { return filepath.Join(alloc.SecretsDir("app"), name) }
			pair := func() (pair tls.Certificate, cert, key string, err error) { // an error also where a swap comes between
				certPEM, err := os.ReadFile(at("cert.pem"))
				if err != nil {
					return pair, "", "", err
				}
				keyPEM, err := os.ReadFile(at("key.pem"))
				if err != nil {
					return pair, "", "", err
				}
				pair, err = tls.X509KeyPair(certPEM, keyPEM)
				return pair, string(certPEM), string(keyPEM), err
			}
			first, firstCert, firstKey, err := pair()
			require.NoError(t, err)
			require.NoError(t, first.Leaf.VerifyHostname("web.example.com"))
			for _, read := range [][]string{
				{"openssl", "pkcs12", "-info", "-in", at("web.p12"), "-passin", "pass:changeit", "-passout", "pass:changeit"},
				{"keytool", "-list", "-keystore", at("web.p12"), "-storepass", "changeit"},
				{"keytool", "-list", "-keystore", at("web.jks"), "-storepass", "changeit"},
			} {
				out, err := exec.CommandContext(l.Ctx, read[0], read[1:]...).CombinedOutput()
				require.NoError(t, err, "%s", out)
			}
			var nextKey string
			l.Until("another certificate", func() error {
				next, _, key, err := pair()
				if err == nil && next.Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) == 0 {
					err = errors.New("the same certificate")
				}
				nextKey = key
				return err
			})
			require.Equal(t, reuse == "true", firstKey == nextKey)
			require.True(t, inAuditLog(l, firstCert))
			require.False(t, inAuditLog(l, firstKey))
			require.False(t, inAuditLog(l, nextKey))
			l.StartedTimes(alloc, 1)
		})
	}
}

// inAuditLog reports whether a value is in Vault's audit log, which has the hash of each that it was sent, or has sent.
func inAuditLog(l *lab.Lab, value string) bool {
	l.T.Helper()
	hash, err := l.Vault.Client().Sys().AuditHashWithContext(l.Ctx, "file", value)
	require.NoError(l.T, err)
	log, err := os.ReadFile(l.Vault.AuditPath)
	require.NoError(l.T, err)
	for line := range bytes.Lines(log) {
		if !bytes.Contains(line, []byte(`"sys/audit-hash/file"`)) && bytes.Contains(line, []byte(hash)) { // else it is our own question
			return true
		}
	}
	return bytes.Contains(log, []byte(value))
}
