package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/vault"
)

// LockTTL is how long a lock lives that is not extended: how long a killed issuer keeps others waiting.
const LockTTL = 30 * time.Second

// HeldError is the error of an attempt to lock what another issuer has locked.
type HeldError struct {
	Holder string
	Until  time.Time
}

// Error names the holder.
func (e *HeldError) Error() string {
	return fmt.Sprintf("locked by %s until %s", e.Holder, e.Until.UTC().Format(time.RFC3339))
}

// lockState is what is at a lock's path. A zero one is free.
type lockState struct {
	Holder   string
	Deadline time.Time
}

// mayTake decides on a lock that was read. The clocks of two nodes may differ: a lock lives longer than
// they do, and should that fail, the write of the certificate still finds out.
func (l lockState) mayTake(now time.Time) bool { return l.Holder == "" || !now.Before(l.Deadline) }

// Lock is a lock that is held.
type Lock struct {
	store   *Store
	path    string
	holder  string
	version int
}

// Lock takes the lock on a certificate by its name. The error is a *HeldError if another holder has it.
func (s *Store) Lock(ctx context.Context, name, holder string, now time.Time) (*Lock, error) {
	path := s.path + "/locks/" + name
	secret, err := s.kv.Get(ctx, path)
	if err != nil {
		return nil, err
	}
	state, err := parseLock(secret.Data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !state.mayTake(now) {
		return nil, &HeldError{Holder: state.Holder, Until: state.Deadline}
	}
	l := &Lock{store: s, path: path, holder: holder, version: secret.Version}
	if err := l.Extend(ctx, now); err != nil {
		if errors.Is(err, vault.ErrConflict) {
			return nil, &HeldError{Holder: "another issuer", Until: now.Add(LockTTL)}
		}
		return nil, err
	}
	return l, nil
}

// Extend lets the lock live for another LockTTL. It fails with vault.ErrConflict once the lock is lost.
func (l *Lock) Extend(ctx context.Context, now time.Time) error {
	state := lockState{Holder: l.holder, Deadline: now.Add(LockTTL)}
	err := l.put(ctx, state)
	if !errors.Is(err, vault.ErrConflict) {
		return err
	}
	// A write whose answer was lost counts, too.
	secret, readErr := l.store.kv.Get(ctx, l.path)
	if readErr != nil || text(secret.Data, "holder") != l.holder {
		return err
	}
	l.version = secret.Version
	return l.put(ctx, state)
}

// Release gives the lock back. One that was lost is another's.
func (l *Lock) Release(ctx context.Context) error {
	err := l.put(ctx, lockState{})
	if errors.Is(err, vault.ErrConflict) {
		return nil
	}
	return err
}

func (l *Lock) put(ctx context.Context, state lockState) error {
	fields := map[string]any{"holder": state.Holder, "deadline": ""}
	if state.Holder != "" {
		fields["deadline"] = state.Deadline.UTC().Format(time.RFC3339Nano)
	}
	version, err := l.store.kv.Put(ctx, l.path, fields, l.version)
	if err == nil {
		l.version = version
	}
	return err
}

func parseLock(data map[string]any) (lockState, error) {
	state := lockState{Holder: text(data, "holder")}
	if state.Holder == "" {
		return state, nil
	}
	deadline, err := time.Parse(time.RFC3339Nano, text(data, "deadline"))
	if err != nil {
		return state, fmt.Errorf("not a lock: %w; the storage's path is for the issuer alone", err)
	}
	state.Deadline = deadline
	return state, nil
}
