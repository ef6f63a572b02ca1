package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// The server's certificate and the plugin's own expire under running tasks: an outage (C3). They are
// replaced, on disk and with a new authority: the next requests work (DESIGN 4).
func TestCertificatesExpireAndAreReplaced(t *testing.T) {
	t.Parallel()
	first, second := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	ca, cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	expiry := time.Now().Add(45 * time.Second)

	var served atomic.Pointer[tls.Config]
	serve := func(a *authority, until time.Time) {
		pair := a.issue(t, until)
		served.Store(&tls.Config{
			Certificates: []tls.Certificate{pair}, ClientCAs: a.pool(), ClientAuth: tls.RequireAndVerifyClientCert,
		})
	}
	write := func(a *authority, until time.Time) {
		pair := a.issue(t, until)
		der, err := x509.MarshalECPrivateKey(pair.PrivateKey.(*ecdsa.PrivateKey))
		require.NoError(t, err)
		writePEM(t, ca, "CERTIFICATE", a.cert.Raw)
		writePEM(t, cert, "CERTIFICATE", pair.Certificate[0])
		writePEM(t, key, "EC PRIVATE KEY", der)
	}
	serve(first, expiry)
	write(first, expiry)
	proxy, err := harness.NewFaultProxy(&tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return served.Load(), nil },
	}, shared.Vault.Addr)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "tls", Placement: placement, Secrets: map[string]any{
			"address": proxy.Addr, "ca_cert": ca, "client_cert": cert, "client_key": key, "lease_check_interval": "4s",
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	l := newKeptLab(t, agent, shared.Vault, 3*time.Minute)
	tasks := l.keep(agent.AuthPath, keptJob{name: "tls-kept", driver: "raw_exec", count: 2, ttl: 5 * time.Minute})
	require.True(t, time.Now().Before(expiry), "the tasks took too long to start")
	tokens := l.tokensOf(tasks[0].job)
	l.askedFor(0, "sys/leases/lookup", tokens)

	l.until("the certificates to expire", func() error {
		if time.Now().Before(expiry) {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
	at := time.Now()
	proxy.Refuse() // a connection outlives its certificate
	require.NoError(t, proxy.Accept())
	l.said(tasks, at, "secrets server unreachable")

	back := time.Now()
	serve(second, back.Add(time.Hour))
	write(second, back.Add(time.Hour))
	l.said(tasks, back, "secrets server reachable again")
	since := l.mark()
	l.askedFor(since, "sys/leases/lookup", tokens)
	l.undisturbed(tasks)
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: "e2e"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert, key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// issue makes a certificate for a server and for a client at 127.0.0.1.
func (a *authority) issue(t *testing.T, until time.Time) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: "vault"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func serial(t *testing.T) *big.Int {
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(t, err)
	return n
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}
