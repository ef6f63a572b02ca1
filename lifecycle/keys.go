package lifecycle

import (
	"context"
	"sync"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// keyring has the private keys that certificates are asked for with (CSR), by secret, for as long as one fetch is tried:
// what an outage has to be asked for again needs no other key. A fetch's requests share it.
type keyring struct {
	mu   sync.Mutex
	keys map[string]secrets.Value
}

func newKeyring() *keyring { return &keyring{keys: map[string]secrets.Value{}} }

// reuse has the key of h used again, if the job says so.
func (r *keyring) reuse(h *secretState) {
	csr := h.secret.CSR
	if csr == nil || !csr.ReuseKey {
		return
	}
	if key, ok := csr.KeyIn(h.answer.Fields); ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.keys[h.secret.Name] = key
	}
}

// of is a secret's key, made if there is none. One is made at a time: a task has one core for it at the most (C11).
func (r *keyring) of(ctx context.Context, sec *secrets.Secret) (secrets.Value, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if key, ok := r.keys[sec.Name]; ok {
		return key, nil
	}
	if err := ctx.Err(); err != nil {
		return secrets.Value{}, secrets.Errorf(secrets.Outage, "make a private key: %w", err)
	}
	key, err := sec.CSR.NewKey()
	if err == nil {
		r.keys[sec.Name] = key
	}
	return key, err
}
