package secrets

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/pavlo-v-chernykh/keystore-go/v4"
	"github.com/shoenig/test/must"
	"software.sslmate.com/src/go-pkcs12"
)

// certified are the fields of a certificate with a chain of two, whose key is of a type.
func certified(t *testing.T, typ string, bits int) map[string]any {
	t.Helper()
	csr := &CSR{KeyType: typ, KeyBits: bits}
	var signed []string // from the root on
	var parent *x509.Certificate
	var parentKey, key Value
	for i := range 3 {
		var err error
		key, err = csr.NewKey()
		must.NoError(t, err)
		signer, err := parseKey(key.Text())
		must.NoError(t, err)
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: fmt.Sprint("c", i)}, IsCA: i < 2, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
		if parent == nil {
			parent, parentKey = tmpl, key
		}
		by, err := parseKey(parentKey.Text())
		must.NoError(t, err)
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, signer.Public(), by)
		must.NoError(t, err)
		parent, err = x509.ParseCertificate(der)
		must.NoError(t, err)
		parentKey = key
		signed = append(signed, strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))))
	}
	return map[string]any{"certificate": signed[2], "private_key": key.Text(), "ca_chain": []any{signed[1], signed[0]}, "password": "changeit"}
}

// A keystore has the key and the whole chain, and is the same each time (C7).
func TestTemplateKeystores(t *testing.T) {
	for typ, bits := range map[string]int{"ec": 384, "rsa": 2048, "ed25519": 0} {
		data := certified(t, typ, bits)
		want, err := parseKey(data["private_key"].(string))
		must.NoError(t, err)
		render := func(src string) Value {
			v, err := newTemplates().render(src, func() map[string]any { return NewFields(data).Map() })
			must.NoError(t, err)
			again, err := newTemplates().render(src, func() map[string]any { return NewFields(data).Map() })
			must.NoError(t, err)
			must.True(t, v.Equal(again))
			return v
		}
		p12 := render(`{{ pkcs12 .certificate .private_key .ca_chain .password }}`)
		key, cert, chain, err := pkcs12.DecodeChain(p12.Bytes(), "changeit")
		must.NoError(t, err)
		must.Eq(t, want, key.(crypto.Signer))
		must.Eq(t, "c2", cert.Subject.CommonName)
		must.Len(t, 2, chain)
		must.Eq(t, "c1", chain[0].Subject.CommonName)
		_, _, _, err = pkcs12.DecodeChain(p12.Bytes(), "other")
		must.ErrorIs(t, err, pkcs12.ErrIncorrectPassword)

		// The chain as text, with the certificate in it, comes to the same.
		v := render(`{{ pkcs12 .certificate .private_key (join "\n" (prepend .ca_chain .certificate)) .password }}`)
		_, _, chain, err = pkcs12.DecodeChain(v.Bytes(), "changeit")
		must.NoError(t, err)
		must.Len(t, 2, chain)
		v = render(`{{ pkcs12 .certificate .private_key "" .password }}`)
		_, _, chain, err = pkcs12.DecodeChain(v.Bytes(), "changeit")
		must.NoError(t, err)
		must.Len(t, 0, chain)

		store := keystore.New()
		must.NoError(t, store.Load(bytes.NewReader(render(`{{ jks .certificate .private_key .ca_chain .password }}`).Bytes()), []byte("changeit")))
		must.Eq(t, []string{"1"}, store.Aliases())
		entry, err := store.GetPrivateKeyEntry("1", []byte("changeit"))
		must.NoError(t, err)
		got, err := x509.ParsePKCS8PrivateKey(entry.PrivateKey)
		must.NoError(t, err)
		must.Eq(t, want, got.(crypto.Signer))
		must.Len(t, 3, entry.CertificateChain)
		must.Eq(t, cert.Raw, entry.CertificateChain[0].Content)
		must.Eq(t, cert.NotBefore.Unix(), entry.CreationTime.Unix())
	}
}

// What is not right is said without a word of it.
func TestTemplateKeystoresRefuse(t *testing.T) {
	good, other := certified(t, "ec", 256), certified(t, "ec", 256)
	with := func(name string, v any) map[string]any {
		m := NewFields(good).Map()
		m[name] = v
		return m
	}
	for want, data := range map[string]map[string]any{
		errStoreCertificate.Error():     with("certificate", "hunter2"),
		errKey.Error():                  with("private_key", "hunter2"),
		errStoreKeyMismatch.Error():     with("private_key", other["private_key"]),
		errStorePassword.Error():        with("password", "hunter2ä"),
		errStoreChain.Error():           with("ca_chain", map[string]any{"hunter2": "hunter2"}),
		"a value in it grows too large": with("ca_chain", strings.Repeat("hunter2", 10_000)),
	} {
		for _, fn := range []string{"pkcs12", "jks"} {
			_, err := newTemplates().render(`{{ `+fn+` .certificate .private_key .ca_chain .password }}`, func() map[string]any { return data })
			must.ErrorContains(t, err, "template line 1 <"+fn)
			must.ErrorContains(t, err, want)
			must.StrNotContains(t, err.Error(), "hunter2")
		}
	}
	for name, data := range map[string]map[string]any{"a chain that is none": with("ca_chain", "hunter2"), "no certificate": with("certificate", " "), "cut off": with("ca_chain", good["certificate"].(string)[:200])} {
		_, err := newTemplates().render(`{{ pkcs12 .certificate .private_key .ca_chain .password }}`, func() map[string]any { return data })
		must.ErrorContains(t, err, errStoreCertificate.Error(), must.Sprint(name))
	}
	for name, n := range map[string]int{"private_key": maxStoreKey + 1, "password": maxStorePassword + 1} {
		_, err := newTemplates().render(`{{ pkcs12 .certificate .private_key .ca_chain .password }}`, func() map[string]any { return with(name, strings.Repeat("x", n)) })
		must.True(t, IsLimit(err))
	}
	_, err := newTemplates().render(`{{ jks .certificate .private_key .ca_chain "short" }}`, func() map[string]any { return good })
	must.ErrorContains(t, err, errStoreShort.Error())
}

// A keystore is a file as it is: any byte may be in it.
func TestKeystoreFile(t *testing.T) {
	data := certified(t, "ec", 256)
	spec, err := Compile(one(func(s *SecretConfig) {
		s.Files = map[string]*FileConfig{"tls.p12": {Template: `{{ pkcs12 .certificate .private_key .ca_chain .password }}`}}
	}))
	must.NoError(t, err)
	set, err := renderSet(spec, map[string]Answer{"db": {Fields: NewFields(data)}})
	must.NoError(t, err)
	_, _, _, err = pkcs12.DecodeChain(set.Files[0].Data.Bytes(), "changeit")
	must.NoError(t, err)
}
