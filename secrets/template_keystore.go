package secrets

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/pavlo-v-chernykh/keystore-go/v4"
	"software.sslmate.com/src/go-pkcs12"
)

// Bounds of what goes into one keystore: what is parsed takes many times the work of text.
const (
	maxStoreCertificates = 64 << 10
	maxStoreKey          = 8 << 10
	maxStorePassword     = 1 << 10
	minJKSPassword       = 6 // keytool takes no shorter one
)

// Reasons why there is no keystore. None quotes what it is about.
var (
	errStoreCertificate = errors.New("the certificate, or one of its chain, is not PEM")
	errStoreKeyMismatch = errors.New("the private key is not the certificate's")
	errStorePassword    = errors.New("the password has characters that the file cannot have; use printable ASCII")
	errStoreShort       = errors.New("the password is too short; a jks has one of 6 characters or more")
	errStoreChain       = errors.New("the chain is neither text nor a list of texts")
)

var storeReasons = []error{errStoreCertificate, errKey, errStoreKeyMismatch, errStorePassword, errStoreShort, errStoreChain}

// storeEntry is what a keystore has: a key, its certificate, and those that certify that.
type storeEntry struct {
	key   crypto.Signer
	certs []*x509.Certificate // the key's own first
	salt  io.Reader           // the same for the same entry and password: so is the file (C7)
}

// pkcs12Store is the template function `pkcs12`: a file with AES-256 and PBKDF2, as OpenSSL 3 and Java since 8u301 read it.
func pkcs12Store(certificate, key string, chain any, password string) (string, error) {
	e, err := newStoreEntry(certificate, key, chain, password)
	if err != nil {
		return "", err
	}
	out, err := pkcs12.Modern2023.WithRand(e.salt).Encode(e.key, e.certs[0], e.certs[1:], password)
	return string(out), err
}

// jksStore is the template function `jks`: a Java keystore of the old form, whose entry "1" has the store's password.
func jksStore(certificate, key string, chain any, password string) (string, error) {
	e, err := newStoreEntry(certificate, key, chain, password)
	if err != nil {
		return "", err
	}
	if len(password) < minJKSPassword {
		return "", errStoreShort
	}
	der, err := x509.MarshalPKCS8PrivateKey(e.key)
	if err != nil {
		return "", err
	}
	entry := keystore.PrivateKeyEntry{CreationTime: e.certs[0].NotBefore, PrivateKey: der}
	for _, c := range e.certs {
		entry.CertificateChain = append(entry.CertificateChain, keystore.Certificate{Type: "X509", Content: c.Raw})
	}
	store := keystore.New(keystore.WithCustomRandomNumberGenerator(e.salt))
	if err := store.SetPrivateKeyEntry("1", entry, []byte(password)); err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = store.Store(&out, []byte(password))
	return out.String(), err
}

func newStoreEntry(certificate, key string, chain any, password string) (*storeEntry, error) {
	chainText, err := chainPEM(chain)
	if err != nil {
		return nil, err
	}
	if len(certificate)+len(chainText) > maxStoreCertificates || len(key) > maxStoreKey || len(password) > maxStorePassword {
		return nil, errTemplateWeight
	}
	if strings.ContainsFunc(password, func(r rune) bool { return r < ' ' || r > '~' }) {
		return nil, errStorePassword
	}
	e := &storeEntry{salt: saltOf(certificate, key, chainText, password)}
	if e.certs, err = addCertificates(nil, certificate); err != nil {
		return nil, err
	}
	if len(e.certs) == 0 {
		return nil, errStoreCertificate
	}
	if e.certs, err = addCertificates(e.certs, chainText); err != nil {
		return nil, err
	}
	if e.key, err = parseKey(key); err != nil {
		return nil, err
	}
	if pub, ok := e.key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(e.certs[0].PublicKey) {
		return nil, errStoreKeyMismatch
	}
	return e, nil
}

// chainPEM is a chain as one text: Vault gives a list of them.
func chainPEM(chain any) (string, error) {
	switch chain := chain.(type) {
	case nil:
		return "", nil
	case string:
		return chain, nil
	case []string:
		return strings.Join(chain, "\n"), nil
	case []any:
		all := make([]string, len(chain))
		for i, c := range chain {
			text, ok := c.(string)
			if !ok {
				return "", errStoreChain
			}
			all[i] = text
		}
		return strings.Join(all, "\n"), nil
	}
	return "", errStoreChain
}

// addCertificates adds all certificates of a text that are not there yet. What is no PEM is passed over before one, not
// after the last: that may be one which is cut off.
func addCertificates(certs []*x509.Certificate, text string) ([]*x509.Certificate, error) {
	for rest := []byte(text); len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errStoreCertificate
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errStoreCertificate
		}
		if !slices.ContainsFunc(certs, cert.Equal) {
			certs = append(certs, cert)
		}
	}
	return certs, nil
}

// saltOf is a stream of bytes that only who has all the parts, the key among them, can foretell.
func saltOf(parts ...string) io.Reader {
	h := sha256.New()
	for _, p := range parts {
		_ = binary.Write(h, binary.BigEndian, uint64(len(p))) // a hash takes everything
		_, _ = io.WriteString(h, p)
	}
	return rand.NewChaCha8([sha256.Size]byte(h.Sum(nil)))
}
