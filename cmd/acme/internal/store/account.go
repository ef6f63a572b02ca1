package store

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/vault"
)

// Account is the account at one authority. URL is empty until it is registered.
type Account struct {
	Key   PrivateKey
	URL   string
	Email string

	version int
}

// Account reads the account for a directory. If there is none, the key that newKey makes is kept first and
// registered later: registering one key twice gives one account, and so no crash and no race leaves two.
func (s *Store) Account(ctx context.Context, directory string, newKey func() (PrivateKey, error)) (*Account, error) {
	path := s.accountPath(directory)
	for {
		secret, err := s.kv.Get(ctx, path)
		if err != nil {
			return nil, err
		}
		if len(secret.Data) > 0 {
			account := &Account{
				Key: PrivateKey(text(secret.Data, "private_key")), URL: text(secret.Data, "url"),
				Email: text(secret.Data, "email"), version: secret.Version,
			}
			if len(account.Key) == 0 {
				return nil, fmt.Errorf("%s has no private_key, but the fields %s; the storage's path is for the issuer alone", path, fieldNames(secret.Data))
			}
			return account, nil
		}
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		account := &Account{Key: key}
		account.version, err = s.kv.Put(ctx, path, account.fields(directory), secret.Version)
		if err == nil {
			return account, nil
		}
		if !errors.Is(err, vault.ErrConflict) {
			return nil, err
		}
	}
}

// PutAccount keeps what the authority said of the account. If somebody else did so first, that is enough.
func (s *Store) PutAccount(ctx context.Context, directory string, account *Account) error {
	version, err := s.kv.Put(ctx, s.accountPath(directory), account.fields(directory), account.version)
	if errors.Is(err, vault.ErrConflict) {
		return nil
	}
	if err == nil {
		account.version = version
	}
	return err
}

func (a *Account) fields(directory string) map[string]any {
	return map[string]any{"private_key": string(a.Key), "url": a.URL, "email": a.Email, "directory": directory}
}

var notInPath = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// accountPath has the directory in it, so that a staging account and the production one live side by side.
func (s *Store) accountPath(directory string) string {
	name := notInPath.ReplaceAllString(strings.TrimPrefix(directory, "https://"), "_")
	return s.path + "/accounts/" + name
}
