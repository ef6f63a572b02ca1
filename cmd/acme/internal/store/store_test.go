package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/kvtest"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/vault"
)

func issue(t *testing.T, life time.Duration, domains ...string) *Certificate {
	t.Helper()
	c, err := NewCertificate(kvtest.Issue(life, domains...))
	require.NoError(t, err)
	return c
}

// What is written is what `pki/issue` would have given, and more, and it is read back as the same.
func TestCertificateFields(t *testing.T) {
	t.Parallel()
	kv := &kvtest.KV{}
	s := New(kv, "secret/acme")
	cert := issue(t, time.Hour, "b.example.com", "a.example.com")
	_, err := s.PutCertificate(t.Context(), "secret/tls/web", cert)
	require.NoError(t, err)
	secret, err := kv.Get(t.Context(), "secret/tls/web")
	require.NoError(t, err)
	require.ElementsMatch(t, strings.Fields("certificate issuing_ca ca_chain private_key fullchain not_after serial_number"), keys(secret.Data))
	require.Equal(t, secret.Data["certificate"].(string)+"\n"+secret.Data["issuing_ca"].(string), secret.Data["fullchain"])
	require.Equal(t, []any{secret.Data["issuing_ca"]}, secret.Data["ca_chain"])
	require.Equal(t, cert.Leaf.NotAfter.UTC().Format(time.RFC3339), secret.Data["not_after"])

	back, err := s.Certificate(t.Context(), "secret/tls/web")
	require.NoError(t, err)
	require.Equal(t, cert.Leaf.Raw, back.Certificate.Leaf.Raw)
	require.Equal(t, []string{"a.example.com", "b.example.com"}, back.Certificate.Domains())
	require.Equal(t, "ec256", back.Certificate.KeyType())
	require.Equal(t, secret.Data["serial_number"], back.Certificate.Serial())
}

func keys(data map[string]any) (names []string) {
	for name := range data {
		names = append(names, name)
	}
	return names
}

// An older certificate never replaces a newer one, also when the newer comes between the read and the
// write.
func TestOlderNeverReplacesNewer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := &kvtest.KV{}
		s := New(kv, "secret/acme")
		older := issue(t, 90*24*time.Hour, "example.com")
		time.Sleep(time.Hour)
		newer := issue(t, 24*time.Hour, "example.com") // ends earlier, and is the newer all the same
		kept, err := s.PutCertificate(t.Context(), "secret/a", newer)
		require.NoError(t, err)
		require.Equal(t, newer, kept)
		kept, err = s.PutCertificate(t.Context(), "secret/a", older)
		require.NoError(t, err)
		require.Equal(t, newer.Serial(), kept.Serial())

		kv.Fault = func(operation, path string) error {
			if operation == "put" && path == "secret/b" {
				kv.Fault = nil
				_, err = New(kv, "").PutCertificate(context.Background(), "secret/b", newer)
			}
			return nil
		}
		kept, putErr := s.PutCertificate(t.Context(), "secret/b", older)
		require.NoError(t, errors.Join(err, putErr))
		require.Equal(t, newer.Serial(), kept.Serial())
		there, err := s.Certificate(t.Context(), "secret/b")
		require.NoError(t, err)
		require.Equal(t, newer.Serial(), there.Certificate.Serial())
	})
}

func TestForeignSecretIsLeftAlone(t *testing.T) {
	t.Parallel()
	chain, key := kvtest.Issue(time.Hour, "example.com")
	_, otherKey := kvtest.Issue(time.Hour, "example.com")
	for name, data := range map[string]map[string]any{
		"something else": {"password": "hunter2"},
		"no key":         {"certificate": string(chain)},
		"another's key":  {"fullchain": string(chain), "private_key": string(otherKey)},
		"not PEM":        {"fullchain": "x", "private_key": string(key)},
	} {
		t.Run(name, func(t *testing.T) {
			kv := &kvtest.KV{}
			_, err := kv.Put(t.Context(), "secret/app", data, 0)
			require.NoError(t, err)
			s := New(kv, "secret/acme")
			_, err = s.PutCertificate(t.Context(), "secret/app", issue(t, time.Hour, "example.com"))
			require.ErrorIs(t, err, ErrForeign)
			require.ErrorContains(t, err, "its fields: ")
			require.NotContains(t, err.Error(), "hunter2")
			secret, err := kv.Get(t.Context(), "secret/app")
			require.NoError(t, err)
			require.Equal(t, data, secret.Data)
		})
	}
}

func TestDeletedCertificateIsNone(t *testing.T) {
	t.Parallel()
	kv := &kvtest.KV{}
	s := New(kv, "secret/acme")
	cert := issue(t, time.Hour, "example.com")
	_, err := s.PutCertificate(t.Context(), "secret/a", cert)
	require.NoError(t, err)
	kv.Delete("secret/a")
	there, err := s.Certificate(t.Context(), "secret/a")
	require.NoError(t, err)
	require.Nil(t, there.Certificate)
	_, err = s.PutCertificate(t.Context(), "secret/a", cert)
	require.NoError(t, err)
}

// Issuers that start at once have one account's key.
func TestOneAccountKey(t *testing.T) {
	t.Parallel()
	kv := &kvtest.KV{}
	var made atomic.Int32
	found := make([]string, 20)
	var wg sync.WaitGroup
	for i := range found {
		wg.Go(func() {
			account, err := New(kv, "secret/acme").Account(t.Context(), "https://ca.example/dir", func() (PrivateKey, error) {
				return PrivateKey(fmt.Sprintf("key %d", made.Add(1))), nil
			})
			if err == nil {
				found[i] = string(account.Key)
			}
		})
	}
	wg.Wait()
	for _, key := range found {
		require.NotEmpty(t, key)
		require.Equal(t, found[0], key)
	}
	other, err := New(kv, "secret/acme").Account(t.Context(), "https://staging.example/dir", func() (PrivateKey, error) { return PrivateKey("other"), nil })
	require.NoError(t, err)
	require.Equal(t, "other", string(other.Key), "each directory has its own")
}

func TestPrivateKeyIsNotPrinted(t *testing.T) {
	t.Parallel()
	key := PrivateKey("-----BEGIN")
	asJSON, err := json.Marshal(struct{ Key PrivateKey }{key})
	require.NoError(t, err)
	for _, text := range []string{fmt.Sprintf("%v %s %q %x %#v %+v", key, key, key, key, key, struct{ K PrivateKey }{key}), string(asJSON)} {
		require.NotContains(t, text, "BEGIN")
		require.NotContains(t, text, "2d2d2d")
		require.NotContains(t, text, "45 45")
	}
}

// Of many that take a lock, hold it for a while and give it back or are killed, never two hold it at once,
// and all have it in the end.
func TestLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kv := &kvtest.KV{}
		var holders, taken atomic.Int32
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				s := New(kv, "secret/acme")
				for {
					lock, err := s.Lock(t.Context(), "web", fmt.Sprint("holder-", i), time.Now())
					var held *HeldError
					if errors.As(err, &held) {
						time.Sleep(time.Second)
						continue
					}
					if err != nil || holders.Add(1) > 1 {
						t.Errorf("holder %d: %v, %d at once", i, err, holders.Load())
						return
					}
					for range 3 {
						time.Sleep(LockTTL - time.Second)
						if err := lock.Extend(t.Context(), time.Now()); err != nil {
							t.Error(err)
						}
					}
					holders.Add(-1)
					taken.Add(1)
					if i%3 > 0 { // else it was killed, and the lock ends by itself
						if err := lock.Release(t.Context()); err != nil {
							t.Error(err)
						}
					}
					return
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 30, taken.Load())
	})
}

// A lock that was taken over is lost for its old holder, and is not given back by it.
func TestLostLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New(&kvtest.KV{}, "secret/acme")
		first, err := s.Lock(t.Context(), "web", "first", time.Now())
		require.NoError(t, err)
		_, err = s.Lock(t.Context(), "web", "second", time.Now())
		require.ErrorContains(t, err, "locked by first until ")
		time.Sleep(LockTTL)
		_, err = s.Lock(t.Context(), "web", "second", time.Now())
		require.NoError(t, err)
		require.ErrorIs(t, first.Extend(t.Context(), time.Now()), vault.ErrConflict)
		require.NoError(t, first.Release(t.Context()))
		_, err = s.Lock(t.Context(), "web", "third", time.Now())
		require.ErrorContains(t, err, "locked by second until ")
	})
}

// An extension whose answer was lost is no loss of the lock.
func TestExtensionWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	kv := &kvtest.KV{}
	s := New(kv, "secret/acme")
	lock, err := s.Lock(t.Context(), "web", "first", time.Now())
	require.NoError(t, err)
	kv.After = func(string, string) error { kv.After = nil; return errors.New("connection reset") }
	require.ErrorContains(t, lock.Extend(t.Context(), time.Now()), "connection reset")
	require.NoError(t, lock.Extend(t.Context(), time.Now()))
}
