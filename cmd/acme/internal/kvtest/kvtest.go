// Package kvtest is a KV v2 in memory, with faults that a real Vault does not have on demand, and an
// authority's certificates, for tests.
package kvtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/vault"
)

// KV is safe for use by several goroutines.
type KV struct {
	// Fault, if set, is asked before each request ("get" or "put"). After is asked after a put was done:
	// its error is an answer that was lost.
	Fault, After func(operation, path string) error

	mu      sync.Mutex
	secrets map[string]vault.Secret
}

// Get reads a secret.
func (k *KV) Get(_ context.Context, path string) (vault.Secret, error) {
	if err := k.fault(k.Fault, "get", path); err != nil {
		return vault.Secret{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	found := k.secrets[path]
	found.Data = maps.Clone(found.Data)
	return found, nil
}

// Put writes one, with check-and-set.
func (k *KV) Put(_ context.Context, path string, data map[string]any, expected int) (int, error) {
	if err := k.fault(k.Fault, "put", path); err != nil {
		return 0, err
	}
	version, err := k.put(path, data, expected)
	if err != nil {
		return 0, err
	}
	return version, k.fault(k.After, "put", path)
}

func (k *KV) put(path string, data map[string]any, expected int) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.secrets == nil {
		k.secrets = map[string]vault.Secret{}
	}
	if k.secrets[path].Version != expected {
		return 0, fmt.Errorf("write %s: %w", path, vault.ErrConflict)
	}
	k.secrets[path] = vault.Secret{Data: throughJSON(data), Version: expected + 1, Written: time.Now()}
	return expected + 1, nil
}

// Delete deletes the newest version, as `vault kv delete` does.
func (k *KV) Delete(path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.secrets[path] = vault.Secret{Version: k.secrets[path].Version}
}

func (k *KV) fault(f func(string, string) error, operation, path string) error {
	if f == nil {
		return nil
	}
	return f(operation, path)
}

// throughJSON gives values the types that a server's answer has.
func throughJSON(data map[string]any) (out map[string]any) {
	content, err := json.Marshal(data)
	if err == nil {
		err = json.Unmarshal(content, &out)
	}
	if err != nil {
		panic(err)
	}
	return out
}

var (
	authorityKey  = sync.OnceValue(newKey)
	serials       = big.NewInt(1000)
	serialsLocked sync.Mutex
)

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// Issue makes a certificate that is valid from now on for life, with its issuer's, and its key, in PEM.
func Issue(life time.Duration, domains ...string) (fullchain, key []byte) {
	serialsLocked.Lock()
	serials.Add(serials, big.NewInt(1))
	serial := new(big.Int).Set(serials)
	serialsLocked.Unlock()
	now := time.Now().Truncate(time.Second)
	issuer := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: now, NotAfter: now.Add(10 * life), SubjectKeyId: []byte{1, 2, 3},
	}
	leaf := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: domains[0]}, DNSNames: domains,
		NotBefore: now, NotAfter: now.Add(life), AuthorityKeyId: []byte{1, 2, 3},
	}
	private := newKey()
	for _, template := range []*x509.Certificate{leaf, issuer} {
		public := &private.PublicKey
		if template.IsCA {
			public = &authorityKey().PublicKey
		}
		der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, authorityKey())
		if err != nil {
			panic(err)
		}
		fullchain = append(fullchain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		panic(err)
	}
	return fullchain, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}
