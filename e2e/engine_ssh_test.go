package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

// A public key that is signed by Vault's CA, for these principals and no others. The certificate has no
// lease, and its end is inside it: it is replaced before that, and signed no more often than it is
// delivered.
func TestSSHSigning(t *testing.T) {
	t.Parallel()
	const replaced = 2
	l := newLab(t)
	l.WriteVault("sys/mounts/sshsign", map[string]any{"type": "ssh"})
	ca := sshCA(l, "sshsign")
	l.WriteVault("sshsign/roles/deploy", map[string]any{
		"key_type": "ca", "allow_user_certificates": true, "allowed_users": "deploy,backup", "ttl": "60s",
	})
	require.NoError(t, l.Vault.Policy(l.Ctx, "sshsign", `path "sshsign/sign/deploy" { capabilities = ["update"] }`))
	l.AllowRole("sshsign")

	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			key := newSSHKey(t)
			since, _ := l.Now()
			job := "sshsign-" + driver
			alloc := l.RunAll(lab.Job{ID: job, Driver: driver, Role: "sshsign",
				Run: []string{"/bin/sh", "-c", "exec testapp sighup $NOMAD_SECRETS_DIR/ssh/id_ed25519-cert.pub"},
				Config: fmt.Sprintf(`secret "ssh" {
					path          = "sshsign/sign/deploy"
					params        = { public_key = %q, valid_principals = "deploy,backup" }
					change_mode   = "signal"
					change_signal = "SIGHUP"
					splay         = "0s"
					file "ssh/id_ed25519-cert.pub" {
						field = "signed_key"
					}
				}`, ssh.MarshalAuthorizedKey(key))})[0]

			cert := sshCertificate(t, l.Lines(alloc, "app", "file ", 1)[0])
			for n := range 1 + replaced {
				checkSSHCertificate(t, cert, ca, key, "deploy", "backup")
				if n == replaced {
					break
				}
				before, cancel := context.WithDeadline(l.Ctx, time.Unix(int64(cert.ValidBefore), 0))
				changed, err := alloc.WaitLines(before, "app", "changed ", n+1)
				cancel()
				require.NoError(t, err, "the certificate has ended, and the task has no other")
				next := sshCertificate(t, changed[n])
				require.NotEqual(t, cert.Serial, next.Serial)
				require.Greater(t, next.ValidBefore, cert.ValidBefore)
				cert = next
			}
			signed, err := l.Vault.Requests(since, "sshsign/sign/deploy")
			require.NoError(t, err)
			require.Len(t, lab.OfJob(signed, job), 1+replaced, "each signature is one that the task has had")
			l.SameProcess(alloc)
		})
	}
}

// The CA's public key as a file, as who trusts its certificates has it: when another CA takes its place, the task has that one's. While
// there is none it keeps what it has, and an event says so.
func TestSSHCAReplaced(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			name := "sshtrust-" + strings.ReplaceAll(driver, "_", "-")
			l.WriteVault("sys/mounts/"+name, map[string]any{"type": "ssh"})
			l.Allow(name, name+"/config/ca")
			first := sshCA(l, name)
			alloc := l.RunAll(lab.Job{ID: name, Driver: driver, Role: name,
				Run: []string{"/bin/sh", "-c", "exec testapp sighup $NOMAD_SECRETS_DIR/ssh/ca.pub"},
				Config: fmt.Sprintf(`secret "ca" {
					path          = "%s/config/ca"
					change_mode   = "signal"
					change_signal = "SIGHUP"
					splay         = "0s"
					file "ssh/ca.pub" {
						field = "public_key"
					}
				}`, name)})[0]
			require.Equal(t, first, sshKeyOf(t, l.Lines(alloc, "app", "file ", 1)[0]))

			_, err := l.Vault.Client().Logical().DeleteWithContext(l.Ctx, name+"/config/ca")
			require.NoError(t, err)
			l.Events(alloc, 1, "not rotated", "keys haven't been configured yet")
			second := sshCA(l, name)
			require.NotEqual(t, first, second)
			require.Equal(t, second, sshKeyOf(t, l.Lines(alloc, "app", "changed ", 1)[0]))
			l.SameProcess(alloc)
		})
	}
}

// checkSSHCertificate: the key is certified by the CA, now, for a user of these names and no other.
func checkSSHCertificate(t testing.TB, cert *ssh.Certificate, ca, key ssh.PublicKey, principals ...string) {
	t.Helper()
	require.Equal(t, ca.Marshal(), cert.SignatureKey.Marshal(), "the CA")
	require.Equal(t, key.Marshal(), cert.Key.Marshal())
	require.EqualValues(t, ssh.UserCert, cert.CertType)
	var checker ssh.CertChecker
	for _, name := range principals {
		require.NoError(t, checker.CheckCert(name, cert))
	}
	require.Error(t, checker.CheckCert("root", cert))
}

// sshCertificate is in a line of testapp's about a file.
func sshCertificate(t *testing.T, line string) *ssh.Certificate {
	t.Helper()
	return parseSSHCertificate(t, fileInLine(t, line))
}

// sshKeyOf is the public key in a line of testapp's about a file.
func sshKeyOf(t *testing.T, line string) ssh.PublicKey {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(fileInLine(t, line)))
	require.NoError(t, err, line)
	return key
}

func fileInLine(t *testing.T, line string) string {
	t.Helper()
	_, quoted, _ := strings.Cut(line, " ")
	content, err := strconv.Unquote(quoted)
	require.NoError(t, err, line)
	return content
}

func parseSSHCertificate(t testing.TB, content string) *ssh.Certificate {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(content))
	require.NoError(t, err, content)
	cert, ok := key.(*ssh.Certificate)
	require.True(t, ok, "it is a %s", key.Type())
	return cert
}

func newSSHKey(t *testing.T) ssh.PublicKey {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	key, err := ssh.NewPublicKey(public)
	require.NoError(t, err)
	return key
}

// sshCA makes an SSH engine's CA, and returns its public key.
func sshCA(l *lab.Lab, mount string) ssh.PublicKey {
	l.T.Helper()
	made := l.WriteVault(mount+"/config/ca", map[string]any{"generate_signing_key": true, "key_type": "ed25519"})
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(made["public_key"].(string)))
	require.NoError(l.T, err)
	return key
}
