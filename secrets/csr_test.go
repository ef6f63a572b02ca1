package secrets

import (
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/shoenig/test/must"
)

func signing(b CSRConfig, change ...func(*SecretConfig)) TaskConfig {
	return one(func(s *SecretConfig) {
		s.Path, s.CSR = "pki/sign/web", &b
		for _, f := range change {
			f(s)
		}
	})
}

func TestCompileCSR(t *testing.T) {
	spec, err := Compile(signing(CSRConfig{
		CommonName: "web.example.com", DNSNames: []string{"a.example.com", "*.example.com"}, IPAddresses: []string{"10.0.0.1", "::1"}, ReuseKey: true,
	}, func(s *SecretConfig) {
		s.Path, s.Params = "/team/pki/int/sign/web/", []map[string]string{{"ttl": "24h"}}
	}))
	must.NoError(t, err)
	s := spec.Secrets[0]
	must.Eq(t, "team/pki/int/sign/web", s.Request.Path)
	must.Eq(t, map[string]string{"ttl": "24h", "common_name": "web.example.com", "alt_names": "a.example.com,*.example.com", "ip_sans": "10.0.0.1,::1"}, s.Request.Params)
	must.True(t, s.CSR.ReuseKey)
	must.Eq(t, "ec", s.CSR.KeyType)
	must.Eq(t, 256, s.CSR.KeyBits)

	// One name of any kind is enough.
	for _, b := range []CSRConfig{{CommonName: "x"}, {DNSNames: []string{"x"}}, {IPAddresses: []string{"10.0.0.1"}}} {
		_, err := Compile(signing(b))
		must.NoError(t, err)
	}
}

func TestCompileRefusesCSR(t *testing.T) {
	named := CSRConfig{CommonName: "x"}
	kind := func(typ string, bits int) TaskConfig {
		return signing(CSRConfig{CommonName: "x", KeyType: typ, KeyBits: bits})
	}
	at := func(path string) TaskConfig { return signing(named, func(s *SecretConfig) { s.Path = path }) }
	param := func(name string) TaskConfig {
		return signing(named, func(s *SecretConfig) { s.Params = []map[string]string{{name: "y"}} })
	}
	for want, c := range map[string]TaskConfig{
		`secret "db": csr: path "pki/issue/web" is not one that signs; give "<mount>/sign/<role>" of a pki engine`: at("pki/issue/web"),
		`secret "db": csr: path "pki/sign-verbatim/web" is not one that signs`:                                     at("pki/sign-verbatim/web"),
		`secret "db": csr: path "sign/web" is not one that signs`:                                                  at("sign/web"),
		`secret "db": csr: path "pki/sign" is not one that signs`:                                                  at("pki/sign"),
		`secret "db": csr: path "pki/sign/web/x" is not one that signs`:                                            at("pki/sign/web/x"),
		`secret "db": csr: version is for reading a KV v2 secret; take it out`:                                     signing(named, func(s *SecretConfig) { s.Version = 1 }),
		`secret "db": csr: it has no name; give common_name, dns_names or ip_addresses`:                            signing(CSRConfig{KeyType: "ec"}),
		`secret "db": csr: common_name "x\n" has control characters`:                                               signing(CSRConfig{CommonName: "x\n"}),
		`secret "db": csr: dns_names: "a,b" is not a DNS name`:                                                     signing(CSRConfig{DNSNames: []string{"a,b"}}),
		`secret "db": csr: dns_names: "" is not a DNS name`:                                                        signing(CSRConfig{DNSNames: []string{""}}),
		`secret "db": csr: dns_names: "ä.example.com" is not a DNS name`:                                           signing(CSRConfig{DNSNames: []string{"ä.example.com"}}),
		`secret "db": csr: ip_addresses: "10.0.0" is not an IP address; give one such as "10.0.0.1"`:               signing(CSRConfig{IPAddresses: []string{"10.0.0"}}),
		`secret "db": csr: key_type "dsa" is not known; use ec, rsa or ed25519`:                                    kind("dsa", 0),
		`secret "db": csr: key_bits 2048 does not fit key_type "ec"; use 256 384 521`:                              kind("", 2048),
		`secret "db": csr: key_bits 1024 does not fit key_type "rsa"; use 2048 3072 4096`:                          kind("rsa", 1024),
		`secret "db": csr: key_bits -1 does not fit key_type "rsa"`:                                                kind("rsa", -1),
		`secret "db": csr: key_bits 256 does not fit key_type "ed25519", which has one size; take it out`:          kind("ed25519", 256),
		`secret "db": csr: params: "csr" is what csr says, or follows from it; take it out of params`:              param("csr"),
		`secret "db": csr: params: "common_name" is what csr says`:                                                 param("common_name"),
		`secret "db": csr: params: "ip_sans" is what csr says`:                                                     param("ip_sans"),
		`secret "db": csr: params: "format" is what csr says`:                                                      param("format"),
	} {
		_, err := Compile(c)
		must.ErrorContains(t, err, want)
		must.EqOp(t, Invalid, KindOf(err))
	}
	_, err := Compile(signing(named, func(s *SecretConfig) { s.Provider = "store" }), "store")
	must.ErrorContains(t, err, `secret "db": csr: it is for provider "vault" only; take it out`)

	many := TaskConfig{Secrets: map[string]*SecretConfig{}}
	for i := range maxKeys + 1 {
		many.Secrets["s"+string(rune('a'+i))] = signing(named).Secrets["db"]
	}
	_, err = Compile(many)
	must.ErrorContains(t, err, "21 csr blocks are more than the 20 that one task may have")
	must.True(t, IsLimit(err))
}

// Each key is of the type asked for, the request is signed with it and says what the job does, and the key is not in it.
func TestCSRKeys(t *testing.T) {
	for _, c := range []struct {
		typ  string
		bits int
		pem  string
		alg  x509.PublicKeyAlgorithm
	}{
		{"ec", 256, "EC PRIVATE KEY", x509.ECDSA}, {"ec", 521, "EC PRIVATE KEY", x509.ECDSA},
		{"rsa", 2048, "RSA PRIVATE KEY", x509.RSA}, {"ed25519", 0, "PRIVATE KEY", x509.Ed25519},
	} {
		spec, err := Compile(signing(CSRConfig{CommonName: "web.example.com", DNSNames: []string{"b"}, IPAddresses: []string{"10.0.0.1"}, KeyType: c.typ, KeyBits: c.bits}))
		must.NoError(t, err)
		csr, given := spec.Secrets[0].CSR, spec.Secrets[0].Request.Params
		key, err := csr.NewKey()
		must.NoError(t, err)
		block, rest := pem.Decode(key.Bytes())
		must.Eq(t, c.pem, block.Type)
		must.Len(t, 0, rest)
		_, err = parseKey(key.Text())
		must.NoError(t, err)

		params, err := csr.Params(given, key)
		must.NoError(t, err)
		must.MapNotContainsKey(t, given, ParamCSR) // the next request has another
		block, _ = pem.Decode([]byte(params[ParamCSR]))
		req, err := x509.ParseCertificateRequest(block.Bytes)
		must.NoError(t, err)
		must.NoError(t, req.CheckSignature())
		must.Eq(t, c.alg, req.PublicKeyAlgorithm)
		must.Eq(t, "web.example.com", req.Subject.CommonName)
		must.Eq(t, []string{"b"}, req.DNSNames)
		must.Eq(t, "10.0.0.1", req.IPAddresses[0].String())

		f := csr.Complete(NewFields(map[string]any{"certificate": "c"}), key)
		must.Eq(t, map[string]any{"certificate": "c", "private_key": key.Text(), "private_key_type": c.typ}, f.Map())
		again, ok := csr.KeyIn(f)
		must.True(t, ok)
		must.True(t, again.Equal(key))
		other, err := csr.NewKey()
		must.NoError(t, err)
		must.False(t, other.Equal(key))
	}
	_, ok := (&CSR{}).KeyIn(NewFields(map[string]any{"private_key": "hunter2"}))
	must.False(t, ok)
	_, err := (&CSR{}).Params(nil, TextValue("hunter2"))
	must.EqError(t, err, errKey.Error())
}
