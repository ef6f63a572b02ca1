package e2e

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// The server's certificate and the plugin's own expire under running tasks: an outage (C3). They are
// replaced, on disk and with a new authority: the next requests work.
func TestCertificatesExpireAndAreReplaced(t *testing.T) {
	t.Parallel()
	first, second := lab.NewAuthority(t), lab.NewAuthority(t)
	dir := t.TempDir()
	ca, cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	expiry := time.Now().Add(45 * time.Second)

	var served atomic.Pointer[tls.Config]
	serve := func(a *lab.Authority, until time.Time) {
		pair := a.Issue(t, until)
		served.Store(&tls.Config{
			Certificates: []tls.Certificate{pair}, ClientCAs: a.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
		})
	}
	write := func(a *lab.Authority, until time.Time) {
		pair := a.Issue(t, until)
		der, err := x509.MarshalECPrivateKey(pair.PrivateKey.(*ecdsa.PrivateKey))
		require.NoError(t, err)
		writePEM(t, ca, "CERTIFICATE", a.Cert.Raw)
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
	l := newOutageLab(t, agent, shared.Vault, 3*time.Minute)
	tasks := l.Start(agent.AuthPath, lab.OutageJob{Name: "tls-kept", Driver: "raw_exec", Count: 2, TTL: 5 * time.Minute})
	require.True(t, time.Now().Before(expiry), "the tasks took too long to start")
	tokens := l.TokensOf(tasks[0].Job)
	l.AwaitRequests(0, "sys/leases/lookup", tokens)

	l.Until("the certificates to expire", func() error {
		if time.Now().Before(expiry) {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
	at := time.Now()
	proxy.Refuse() // a connection outlives its certificate
	require.NoError(t, proxy.Accept())
	l.AwaitEvent(tasks, at, "server unreachable")

	back := time.Now()
	serve(second, back.Add(time.Hour))
	write(second, back.Add(time.Hour))
	l.AwaitEvent(tasks, back, "server reachable again")
	since := l.Mark()
	l.AwaitRequests(since, "sys/leases/lookup", tokens)
	l.Undisturbed(tasks)
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}
