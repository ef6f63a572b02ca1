package store

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-acme/lego/v5/certcrypto"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/vault"
)

// ErrForeign is the error for a path that holds something that is no certificate: it is not overwritten.
var ErrForeign = errors.New("the path holds something else than a certificate")

// Certificate is a certificate with its chain and its key.
type Certificate struct {
	Leaf  *x509.Certificate
	Chain []*x509.Certificate // the issuer first
	Key   PrivateKey

	Written time.Time // to Vault; zero if it is not there
}

// NewCertificate parses what an authority gave, leaf first, and checks that the key is its key.
func NewCertificate(fullchain []byte, key PrivateKey) (*Certificate, error) {
	all, err := parseChain(fullchain)
	if err != nil {
		return nil, err
	}
	c := &Certificate{Leaf: all[0], Chain: all[1:], Key: key}
	return c, c.checkKey()
}

func (c *Certificate) checkKey() error {
	signer, err := certcrypto.ParsePEMPrivateKey(c.Key)
	if err != nil {
		return errors.New("private_key is not a key in PEM")
	}
	public, ok := c.Leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(signer.Public()) {
		return errors.New("private_key is not the certificate's")
	}
	return nil
}

// Domains are the names that it is for, sorted.
func (c *Certificate) Domains() []string { return slices.Sorted(slices.Values(c.Leaf.DNSNames)) }

// KeyType is its key's, as in the configuration.
func (c *Certificate) KeyType() string {
	kind, _ := certcrypto.GetCertificateKeyType(c.Leaf)
	return strings.ToLower(string(kind))
}

// Serial is the serial number, as Vault's pki writes it.
func (c *Certificate) Serial() string {
	return strings.ReplaceAll(fmt.Sprintf("% x", c.Leaf.SerialNumber.Bytes()), " ", ":")
}

// NewerThan reports whether it was issued after another. Of two of one second, the one that is valid for
// longer is the newer.
func (c *Certificate) NewerThan(other *Certificate) bool {
	if other == nil {
		return true
	}
	if !c.Leaf.NotBefore.Equal(other.Leaf.NotBefore) {
		return c.Leaf.NotBefore.After(other.Leaf.NotBefore)
	}
	return c.Leaf.NotAfter.After(other.Leaf.NotAfter)
}

// fields are what is kept, by the names of Vault's pki/issue where it has one.
func (c *Certificate) fields() map[string]any {
	chain := make([]string, len(c.Chain))
	for i, cert := range c.Chain {
		chain[i] = toPEM(cert)
	}
	issuer := ""
	if len(chain) > 0 {
		issuer = chain[0]
	}
	return map[string]any{
		"certificate":   toPEM(c.Leaf),
		"issuing_ca":    issuer,
		"ca_chain":      chain,
		"private_key":   strings.TrimSpace(string(c.Key)),
		"fullchain":     strings.Join(append([]string{toPEM(c.Leaf)}, chain...), "\n"),
		"not_after":     c.Leaf.NotAfter.UTC().Format(time.RFC3339),
		"serial_number": c.Serial(),
	}
}

// Stored is what is at a certificate's path. Certificate is nil if there is none yet.
type Stored struct {
	Certificate *Certificate
	version     int
}

// Certificate reads the certificate at a path.
func (s *Store) Certificate(ctx context.Context, path string) (Stored, error) {
	secret, err := s.kv.Get(ctx, path)
	if err != nil || len(secret.Data) == 0 {
		return Stored{version: secret.Version}, err
	}
	cert, err := parseFields(secret.Data)
	if err != nil {
		return Stored{}, fmt.Errorf("%s: %w (%w; its fields: %s); it is left alone: choose another path, or delete what is there", path, ErrForeign, err, fieldNames(secret.Data))
	}
	cert.Written = secret.Written
	return Stored{Certificate: cert, version: secret.Version}, nil
}

func parseFields(data map[string]any) (*Certificate, error) {
	chain := text(data, "fullchain")
	if chain == "" { // as pki/issue gives it, or an upload
		chain = text(data, "certificate") + "\n" + text(data, "issuing_ca")
	}
	return NewCertificate([]byte(chain), PrivateKey(text(data, "private_key")))
}

// PutCertificate writes a certificate, unless the one that is there is newer: that one is returned then. A
// write that meets another's is tried again on what that one left.
func (s *Store) PutCertificate(ctx context.Context, path string, cert *Certificate) (kept *Certificate, err error) {
	for {
		there, err := s.Certificate(ctx, path)
		if err != nil {
			return nil, err
		}
		if !cert.NewerThan(there.Certificate) {
			return there.Certificate, nil
		}
		_, err = s.kv.Put(ctx, path, cert.fields(), there.version)
		if errors.Is(err, vault.ErrConflict) {
			continue
		}
		cert.Written = time.Now()
		return cert, err
	}
}

func parseChain(content []byte) (all []*x509.Certificate, err error) {
	for rest := bytes.TrimSpace(content); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("certificate is not one in PEM")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, cert)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no certificate")
	}
	return all, nil
}

func toPEM(cert *x509.Certificate) string {
	return strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})))
}
