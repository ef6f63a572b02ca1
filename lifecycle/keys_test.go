package lifecycle

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func signed(reuse bool) secrets.SecretConfig {
	return changing(secrets.SecretConfig{
		Path: "pki/sign/web", AllFiles: true, ChangeMode: "signal",
		CSR: &secrets.CSRConfig{CommonName: "web.example.com", ReuseKey: reuse},
	})
}

// keyOf is the key that a task has, and requires it to be that of the last request.
func keyOf(w *world, set *secrets.Set) string {
	w.t.Helper()
	var text string
	for _, f := range set.Files {
		if f.Path == "tls/private_key" {
			text = f.Data.Text()
		}
	}
	block, _ := pem.Decode([]byte(text))
	require.NotNil(w.t, block)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	require.NoError(w.t, err)
	w.vault.with(func() {
		last := w.vault.params[len(w.vault.params)-1]
		require.Equal(w.t, "web.example.com", last["common_name"])
		block, _ = pem.Decode([]byte(last["csr"]))
		for name, value := range last {
			require.NotContains(w.t, value, "PRIVATE KEY", name)
		}
	})
	req, err := x509.ParseCertificateRequest(block.Bytes)
	require.NoError(w.t, err)
	require.True(w.t, key.PublicKey.Equal(crypto.PublicKey(req.PublicKey)))
	return text
}

// Each certificate has a key of its own, or, with reuse_key, the one before's, over a restart of the plugin too.
func TestKeyOfEachCertificate(t *testing.T) {
	for name, reuse := range map[string]bool{"new": false, "reused": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.vault.roles["pki/sign/web"] = fakeRole{issued: 24 * time.Hour}
				s := w.open(many{"tls": signed(reuse)})
				keys := []string{keyOf(w, s.Set())}
				w.sleep(18 * time.Hour)
				require.Equal(t, []string{"publish", "signal SIGHUP"}, w.host.applied())
				keys = append(keys, keyOf(w, s.Set()))
				w.crash()
				s = w.recover()
				require.Equal(t, keys[1], keyOf(w, s.Set()), "what the task has is not made anew")
				w.sleep(18 * time.Hour)
				keys = append(keys, keyOf(w, s.Set()))
				require.Equal(t, 3, w.vault.called("read"))
				if reuse {
					require.Equal(t, keys[0], keys[1])
					require.Equal(t, keys[0], keys[2])
				} else {
					require.NotEqual(t, keys[0], keys[1])
					require.NotEqual(t, keys[1], keys[2])
				}
				s.End()
			})
		})
	}
}

// What an outage has to be asked for again is asked for with the same key: making one takes the node's time.
func TestKeyOverAnOutage(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["pki/sign/web"] = fakeRole{issued: 24 * time.Hour}
		w.vault.fail["read pki/sign/web"] = errAway
		time.AfterFunc(20*time.Second, func() { w.vault.with(func() { delete(w.vault.fail, "read pki/sign/web") }) })
		s := w.open(many{"tls": signed(false)})
		keyOf(w, s.Set())
		w.vault.with(func() {
			require.Greater(t, len(w.vault.params), 2)
			key := func(params map[string]string) any {
				block, _ := pem.Decode([]byte(params["csr"]))
				req, err := x509.ParseCertificateRequest(block.Bytes)
				require.NoError(t, err)
				return req.PublicKey
			}
			require.Equal(t, key(w.vault.params[0]), key(w.vault.params[1]))
		})
		s.End()
	})
}
