package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// tlsTask is a task that serves TLS with a certificate of its secrets, which it reads at the start and
// on SIGHUP.
type tlsTask struct {
	*lab.Lab
	alloc *harness.Alloc
	addr  string
}

// serveTLS runs a task with a secret "tls" that comes to tls/cert.pem and tls/key.pem, and more.
func serveTLS(l *lab.Lab, id, driver, secret, more string) *tlsTask {
	l.T.Helper()
	config := `secret "tls" {
		change_mode   = "signal"
		change_signal = "SIGHUP"
		splay         = "0s"
		` + secret + `
	}
	` + more
	if driver == "docker" {
		config += "\nnetwork_mode = \"host\""
	}
	alloc := l.RunAll(lab.Job{ID: id, Driver: driver, Role: id, Config: config,
		Run: []string{"/bin/sh", "-c", "exec testapp serve $NOMAD_SECRETS_DIR/tls cert.pem key.pem"}})[0]
	return &tlsTask{l, alloc, l.Lines(alloc, "app", "listening ", 1)[0]}
}

// served is the certificate and chain that a client of the task gets, one that trusts these roots. That
// it is valid, and the task has its key, the handshake shows.
func (s *tlsTask) served(name string, roots *x509.CertPool) []*x509.Certificate {
	s.T.Helper()
	conn, err := tls.Dial("tcp", s.addr, &tls.Config{ServerName: name, RootCAs: roots})
	require.NoError(s.T, err)
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates
}

// undisturbed: the process has found a pair that matches at each signal, and lives.
func (s *tlsTask) undisturbed() {
	s.T.Helper()
	bad, err := s.alloc.Lines("app", "mismatch ")
	require.NoError(s.T, err)
	require.Empty(s.T, bad)
	s.SameProcess(s.alloc)
}

// A certificate that somebody else renews into KV, as an ACME client does. The task is signalled once for
// each, after both files changed: what it reads at the signal is the new pair, and it serves it.
func TestCertificateRenewedIntoKV(t *testing.T) {
	t.Parallel()
	const rounds = 4
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			kv := l.NewKV(2, "acme-"+strings.ReplaceAll(driver, "_", "-"))
			ca := lab.NewAuthority(t)
			renew := func() (serial string) {
				pair := ca.Issue(t, time.Now().Add(time.Hour))
				der, err := x509.MarshalECPrivateKey(pair.PrivateKey.(*ecdsa.PrivateKey))
				require.NoError(t, err)
				key := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
				kv.Put(map[string]any{
					"cert": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})),
					"key":  base64.StdEncoding.EncodeToString(key),
				})
				leaf, err := x509.ParseCertificate(pair.Certificate[0])
				require.NoError(t, err)
				return "serial=" + leaf.SerialNumber.Text(16)
			}
			want := renew()
			task := serveTLS(l, kv.Name, driver, `path = "`+kv.Path()+`"
				file "tls/cert.pem" {
					field = "cert"
				}
				file "tls/key.pem" {
					field  = "key"
					decode = "base64"
				}`, "")
			for round := range rounds {
				if round > 0 {
					want = renew()
				}
				serving := l.Lines(task.alloc, "app", "serving ", round+1)
				require.Equal(t, want, serving[round], "what the task found when signal %d came", round)
				require.Equal(t, want, "serial="+task.served("127.0.0.1", ca.Pool())[0].SerialNumber.Text(16))
			}
			l.Events(task.alloc, rounds-1, `secret "tls" changed; task signalled with SIGHUP`)
			signals, err := task.alloc.Lines("app", "hangup")
			require.NoError(t, err)
			require.Len(t, signals, rounds-1, "one signal a change")
			task.undisturbed()
		})
	}
}

// The CA of a PKI mount is replaced: another root, and below it an issuer that becomes the mount's
// default. Clients that trust both roots are served at every moment, with the old until the new is
// there; and then with certificate, chain and key of the new, by which those who trust that root alone
// are served, too. A task that reads the mount's chain, as who trusts its CA does, gets the new.
func TestPKIIssuerReplaced(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			mount := "issuer-" + strings.ReplaceAll(driver, "_", "-")
			require.NoError(t, l.Vault.EnablePKI(l.Ctx, mount, "web"))
			require.NoError(t, l.Vault.Policy(l.Ctx, mount, `path "`+mount+`/issue/web" { capabilities = ["update"] }`))
			l.AllowRole(mount)
			oldRoot := issuerOf(l, mount+"/issuer/default")
			task := serveTLS(l, mount, driver, `path = "`+mount+`/issue/web"
				params = { common_name = "web.example.com", ttl = "60s" }
				file "tls/cert.pem" {
					template = "{{ .certificate }}\n{{ range .ca_chain }}{{ . }}\n{{ end }}"
				}
				file "tls/key.pem" {
					field = "private_key"
				}`, `
				secret "trust" {
					path        = "`+mount+`/cert/ca_chain"
					change_mode = "noop"
					splay       = "0s"
					file "trust/ca.pem" {
						field = "certificate"
					}
				}`)
			trusts := func(issuer *x509.Certificate) {
				t.Helper()
				l.Until("the chain of "+issuer.Subject.CommonName, func() error {
					content, err := os.ReadFile(task.alloc.SecretsDir("app") + "/trust/ca.pem")
					require.NoError(t, err)
					if block, _ := pem.Decode(content); block == nil || !bytes.Equal(issuer.Raw, block.Bytes) {
						return errors.New("it is another")
					}
					return nil
				})
			}
			var chain []*x509.Certificate
			serves := func(roots *x509.CertPool, issuer *x509.Certificate, not string) {
				t.Helper()
				l.Until("a certificate of "+issuer.Subject.CommonName, func() error {
					chain = task.served("web.example.com", roots)
					if leaf := chain[0]; leaf.CheckSignatureFrom(issuer) != nil {
						return errors.New("it is of " + leaf.Issuer.CommonName)
					}
					if chain[0].SerialNumber.Text(16) == not {
						return errors.New("it is the same")
					}
					return nil
				})
			}
			trusts(oldRoot)
			serves(poolOf(oldRoot), oldRoot, "")
			serves(poolOf(oldRoot), oldRoot, chain[0].SerialNumber.Text(16))

			newRoot, issuer := replaceIssuer(l, mount)
			both := poolOf(oldRoot, newRoot)
			serves(both, issuer, "")
			require.True(t, chain[1].Equal(issuer), "the chain is the old one")
			trusts(issuer)
			serves(poolOf(newRoot), issuer, chain[0].SerialNumber.Text(16))
			task.undisturbed()
		})
	}
}

func poolOf(certs ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool
}

// issuerOf is the certificate of one of a PKI mount's issuers.
func issuerOf(l *lab.Lab, path string) *x509.Certificate {
	l.T.Helper()
	answer, err := l.Vault.Client().Logical().ReadWithContext(l.Ctx, path)
	require.NoError(l.T, err)
	block, _ := pem.Decode([]byte(answer.Data["certificate"].(string)))
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(l.T, err)
	return cert
}

// replaceIssuer makes a root and an intermediate of it, which issues from now on.
func replaceIssuer(l *lab.Lab, mount string) (root, issuer *x509.Certificate) {
	l.T.Helper()
	write := func(path string, data map[string]any) map[string]any { return l.WriteVault(mount+"/"+path, data) }
	write("root/rotate/internal", map[string]any{
		"common_name": "new root", "issuer_name": "new-root", "ttl": "87600h", "key_type": "ec", "key_bits": 256,
	})
	request := write("intermediate/generate/internal", map[string]any{
		"common_name": "new issuer", "key_type": "ec", "key_bits": 256,
	})
	signed := write("issuer/new-root/sign-intermediate", map[string]any{
		"csr": request["csr"], "common_name": "new issuer", "ttl": "43800h",
	})
	imported := write("intermediate/set-signed", map[string]any{"certificate": signed["certificate"]})
	id := imported["imported_issuers"].([]any)[0].(string)
	write("config/issuers", map[string]any{"default": id})
	return issuerOf(l, mount+"/issuer/new-root"), issuerOf(l, mount+"/issuer/"+id)
}
