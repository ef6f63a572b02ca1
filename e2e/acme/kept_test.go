package acme

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// Somebody writes a newer certificate while one is ordered: it stays, and the older one is not written over it. A secret
// that is no certificate stays, too, and nothing is ordered for its path.
func TestOlderNeverReplacesNewer(t *testing.T) {
	t.Parallel()
	l := newLab(t, "older", shared.Vault, harness.PebbleOptions{})
	newer := selfSigned(t, time.Now().Add(time.Hour), "web.example.com")
	written := make(chan error, 1)
	var once sync.Once
	l.pebble.Done(func(r *http.Request) {
		if strings.Contains(r.URL.Path, "/certZ/") { // the certificate is on its way to the issuer
			once.Do(func() { written <- l.put("web", newer) })
		}
	})
	foreign := map[string]any{"password": "of something else"}
	require.NoError(t, l.put("foreign", foreign))
	i := l.start(l.head()+l.certificate("web", "default", "web.example.com")+l.certificate("foreign", "default", "foreign.example.com"), "-once")
	require.Equal(t, 1, i.status(), "%s", i.out)
	select {
	case err := <-written:
		require.NoError(t, err)
	default:
		t.Fatal("no certificate was issued")
	}
	require.Equal(t, newer["private_key"], l.fields(l.path("web"))["private_key"])
	require.Contains(t, i.out.String(), "a newer certificate is in Vault and stays")
	require.Equal(t, foreign, l.fields(l.path("foreign")))
	require.Contains(t, i.out.String(), `certificate "foreign": `+l.path("foreign")+": the path holds something else than a certificate")
	require.Contains(t, i.out.String(), "its fields: password")
	require.NotContains(t, i.out.String(), "of something else")
	require.Equal(t, 1, l.pebble.Orders(""))
}

// put writes a secret where a certificate is kept.
func (l *lab) put(name string, fields map[string]any) error {
	_, err := l.vault.Client().KVv2("secret").Put(l.ctx, strings.TrimPrefix(l.path(name), "secret/"), fields)
	return err
}

// selfSigned is a certificate as somebody uploads it.
func selfSigned(t *testing.T, notBefore time.Time, domain string) map[string]any {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{domain}, NotBefore: notBefore, NotAfter: notBefore.Add(90 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	return map[string]any{
		"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})),
	}
}

// A profile that the authority does not have: the request is wrong, and the error says which ones it has.
func TestUnknownProfile(t *testing.T) {
	t.Parallel()
	l := newLab(t, "profile", shared.Vault, harness.PebbleOptions{})
	i := l.start(l.head()+l.certificate("web", "shortlived", "profile.example.com"), "-once")
	require.Equal(t, 1, i.status(), "%s", i.out)
	require.Contains(t, i.out.String(), "certificate=web result=misconfigured")
	require.Contains(t, i.out.String(), "urn:ietf:params:acme:error:invalidProfile")
	require.Contains(t, i.out.String(), "shortlived")
}
