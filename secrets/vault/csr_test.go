package vault

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A certificate for a key that is made here has all that one of pki/issue has, whatever of the request the role goes by, and
// the server has not seen the key: its audit log, in the clear, has the request and no key.
func TestSign(t *testing.T) {
	s := startVault(t)
	mountPKI(t, s, "1h")
	for role, use := range map[string]bool{"request": true, "params": false} {
		s.admin(t, "POST", "pki/roles/"+role, map[string]any{
			"allowed_domains": "example.com", "allow_subdomains": true, "allow_ip_sans": true, "key_type": "any", "ttl": "1h",
			"use_csr_common_name": use, "use_csr_sans": use,
		})
	}
	issued := map[string]map[string]any{}
	for typ, bits := range map[string]int{"ec": 256, "rsa": 2048, "ed25519": 0} {
		s.admin(t, "POST", "pki/roles/issue-"+typ, map[string]any{"allow_any_name": true, "key_type": typ, "key_bits": bits, "ttl": "1h"})
		issued[typ] = s.admin(t, "POST", "pki/issue/issue-"+typ, map[string]any{"common_name": "web.example.com"})["data"].(map[string]any)
	}
	audit := filepath.Join(t.TempDir(), "audit.log")
	s.admin(t, "PUT", "sys/audit/raw", map[string]any{"type": "file", "options": map[string]any{"file_path": audit, "log_raw": "true"}})

	for _, role := range []string{"request", "params"} {
		for typ, like := range issued {
			spec, err := secrets.Compile(secrets.TaskConfig{Secrets: map[string]*secrets.SecretConfig{"tls": {
				Path: "pki/sign/" + role, Params: []map[string]string{{"ttl": "30m"}},
				CSR: &secrets.CSRConfig{CommonName: "web.example.com", DNSNames: []string{"b.example.com"}, IPAddresses: []string{"10.0.0.1", "fd00::1"}, KeyType: typ},
			}}})
			must.NoError(t, err)
			csr, req := spec.Secrets[0].CSR, spec.Secrets[0].Request
			key, err := csr.NewKey()
			must.NoError(t, err)
			req.Params, err = csr.Params(req.Params, key)
			must.NoError(t, err)
			a, err := s.Read(t.Context(), rootTok(), req)
			must.NoError(t, err)
			must.EqOp(t, secrets.Issued, a.Kind)

			got := csr.Complete(a.Fields, key).Map()
			for name := range like {
				must.MapContainsKey(t, got, name)
			}
			must.MapLen(t, len(like), got)
			must.Eq(t, like["private_key_type"], got["private_key_type"])
			must.Eq(t, pemType(t, like["private_key"]), pemType(t, got["private_key"]))

			pair, err := tls.X509KeyPair([]byte(got["certificate"].(string)), []byte(got["private_key"].(string)))
			must.NoError(t, err) // the key is the certificate's
			leaf := pair.Leaf
			roots := x509.NewCertPool()
			must.True(t, roots.AppendCertsFromPEM([]byte(got["issuing_ca"].(string))))
			for _, name := range []string{"web.example.com", "b.example.com", "10.0.0.1", "fd00::1"} {
				_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name})
				must.NoError(t, err)
			}
			must.Eq(t, "web.example.com", leaf.Subject.CommonName)
			must.Len(t, 2, leaf.IPAddresses)
			must.True(t, leaf.IPAddresses[0].Equal(net.ParseIP("10.0.0.1")))
			must.Eq(t, leaf.NotAfter.Unix(), a.Ends.Unix())
		}
	}
	log, err := os.ReadFile(audit)
	must.NoError(t, err)
	must.StrContains(t, string(log), "BEGIN CERTIFICATE REQUEST")
	must.StrNotContains(t, string(log), "PRIVATE KEY")
	must.StrNotContains(t, string(log), "private_key")
}

func pemType(t *testing.T, text any) string {
	t.Helper()
	block, _ := pem.Decode([]byte(text.(string)))
	must.NotNil(t, block)
	return block.Type
}
