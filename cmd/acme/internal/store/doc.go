// Package store keeps certificates, the account's key and locks in KV.
//
// Every write expects the version that was read before it. So two issuers that work on one certificate
// lose nothing: the lock keeps them from ordering twice, and if a lock was lost (its holder was cut off
// from Vault for longer than it lives), the write of the certificate still finds out, and the newer one
// stays.
package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/vault"
)

// KV is what the store needs of Vault. Put fails with vault.ErrConflict if the secret has another version
// than expected.
type KV interface {
	Get(ctx context.Context, path string) (vault.Secret, error)
	Put(ctx context.Context, path string, data map[string]any, expected int) (version int, err error)
}

// Store is the issuer's part of KV.
type Store struct {
	kv   KV
	path string // of the account's key and the locks
}

// New is a store whose account and locks are below a path.
func New(kv KV, path string) *Store { return &Store{kv: kv, path: strings.Trim(path, "/")} }

// PrivateKey is a private key in PEM. It prints as [redacted].
type PrivateKey []byte

// Format keeps the key out of every text.
func (PrivateKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalText keeps the key out of JSON.
func (PrivateKey) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// fieldNames are the names of a secret's fields, for errors.
func fieldNames(data map[string]any) string {
	return strings.Join(slices.Sorted(maps.Keys(data)), ", ")
}

func text(data map[string]any, field string) string {
	value, _ := data[field].(string)
	return value
}
