package secrets

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
)

// Fields of an answer to pki/issue that one to pki/sign does not have.
const (
	fieldKey     = "private_key"
	fieldKeyType = "private_key_type"
)

// ParamCSR is the parameter that a request to sign has the certificate request in.
const ParamCSR = "csr"

// CSR is what a certificate is asked for with whose key is made here: the key is never sent.
type CSR struct {
	CommonName  string
	DNSNames    []string
	IPAddresses []net.IP
	KeyType     string // ec, rsa or ed25519
	KeyBits     int    // of KeyType; 0: it has only one size
	ReuseKey    bool   // the next certificate is for the same key
}

// NewKey makes a private key: PEM, in the form that pki/issue gives one of its type in.
func (c *CSR) NewKey() (Value, error) {
	block, err := c.newKey()
	if err != nil {
		return Value{}, fmt.Errorf("make a private key: %w", err)
	}
	return NewValue(pem.EncodeToMemory(block)), nil
}

func (c *CSR) newKey() (*pem.Block, error) {
	switch c.KeyType {
	case "rsa":
		key, err := rsa.GenerateKey(rand.Reader, c.KeyBits)
		if err != nil {
			return nil, err
		}
		return &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}, nil
	case "ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return &pem.Block{Type: "PRIVATE KEY", Bytes: der}, err
	}
	curves := map[int]elliptic.Curve{256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}
	key, err := ecdsa.GenerateKey(curves[c.KeyBits], rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	return &pem.Block{Type: "EC PRIVATE KEY", Bytes: der}, err
}

// KeyIn is the private key that an answer came with; not ok: there is none in it.
func (c *CSR) KeyIn(f Fields) (key Value, ok bool) {
	text, _ := f.content()[fieldKey].(string)
	if _, err := parseKey(text); err != nil {
		return Value{}, false
	}
	return TextValue(text), true
}

// Params are a request's with the certificate request for key among them.
func (c *CSR) Params(params map[string]string, key Value) (map[string]string, error) {
	signer, err := parseKey(key.Text())
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: c.CommonName}, DNSNames: c.DNSNames, IPAddresses: c.IPAddresses,
	}, signer)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	all := maps.Clone(params)
	all[ParamCSR] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	return all, nil
}

// Complete gives an answer to the request the fields that pki/issue's has: the key is one of them.
func (c *CSR) Complete(f Fields, key Value) Fields {
	m := maps.Clone(f.content())
	if m == nil {
		m = map[string]any{}
	}
	m[fieldKey], m[fieldKeyType] = key.Text(), c.KeyType
	return NewFields(m)
}

// errKey is all that is said of a key that is none: the cause might quote it.
var errKey = errors.New("the private key is not a PEM block with an RSA, EC or Ed25519 key")

// parseKey reads a private key in any of the forms that there are of PEM.
func parseKey(text string) (crypto.Signer, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errKey
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errKey
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errKey
	}
	return signer, nil
}
