package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// Credentials are what the driver's own token comes from: one of the three.
type Credentials struct {
	Namespace string

	TokenFile string

	AppRoleMount string
	RoleID       string
	SecretIDFile string

	JWTMount string
	JWTFile  string
	Role     string
}

// Check reports that not just one of the ways is given.
func (c Credentials) Check() error {
	ways := 0
	for _, given := range []bool{c.TokenFile != "", c.RoleID != "" || c.SecretIDFile != "", c.JWTFile != ""} {
		if given {
			ways++
		}
	}
	switch {
	case ways != 1:
		return errors.New("the driver's own credential: give one of -token-file, -approle-role-id with -approle-secret-id-file, -jwt-file")
	case (c.RoleID == "") != (c.SecretIDFile == ""):
		return errors.New("-approle-role-id and -approle-secret-id-file: give both, or neither")
	}
	return nil
}

// server is what of the secrets server is used.
type server interface {
	Read(ctx context.Context, tok secrets.Token, req secrets.Request) (secrets.Answer, error)
	Revoke(ctx context.Context, tok secrets.Token, namespace string, id secrets.LeaseID) error
	Login(ctx context.Context, in secrets.Login) (secrets.Token, error)
	LoginAppRole(ctx context.Context, in vault.AppRole) (secrets.Token, error)
	LookupToken(ctx context.Context, tok secrets.Token, namespace string) (secrets.Token, error)
	RenewToken(ctx context.Context, tok secrets.Token, namespace string) (secrets.Token, error)
}

const (
	loginRetry = 5 * time.Second
	doubtEvery = 5 * time.Second // a token is looked at no more often, however many reads are refused
	// unknownTTL is how often a token that does not say how long it lives is looked at again; its file may have another.
	unknownTTL = time.Minute
)

// token keeps the driver's token alive.
type token struct {
	server server
	from   Credentials
	log    hclog.Logger

	renew chan struct{} // a read was refused: look whether the token is at fault

	mu      sync.Mutex
	current secrets.Token
	err     error         // of the last login, while there is no token
	known   chan struct{} // closed when one of both is there
}

func newToken(s server, from Credentials, log hclog.Logger) *token {
	return &token{server: s, from: from, log: log, renew: make(chan struct{}, 1), known: make(chan struct{})}
}

// get waits for the first login only.
func (t *token) get(ctx context.Context) (secrets.Token, error) {
	select {
	case <-t.known:
	case <-ctx.Done():
		return secrets.Token{}, secrets.Errorf(secrets.Outage, "no token yet: %w", ctx.Err())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.current, t.err
}

// doubt is for a read that was refused.
func (t *token) doubt() {
	select {
	case t.renew <- struct{}{}:
	default:
	}
}

func (t *token) publish(tok secrets.Token, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil || !t.current.Expires.After(time.Now()) { // the old one goes on to its end
		t.current, t.err = tok, err
	}
	select {
	case <-t.known:
	default:
		close(t.known)
	}
}

// run logs in, renews, and logs in again, until ctx ends.
func (t *token) run(ctx context.Context) {
	for ctx.Err() == nil {
		tok, err := t.login(ctx)
		if err != nil {
			t.log.Warn("no token for the volumes: trying again", "in", loginRetry, "error", err)
			t.publish(secrets.Token{}, err)
			sleep(ctx, loginRetry)
			continue
		}
		t.publish(tok, nil)
		t.keep(ctx, tok)
	}
}

// keep renews a token until it cannot be any more, or is known to be dead. When it is renewed does not depend on doubts: a
// volume whose reads are refused brings one with each look.
func (t *token) keep(ctx context.Context, tok secrets.Token) {
	due := renewAt(tok)
	for {
		doubted := t.doubted(ctx, due)
		if ctx.Err() != nil {
			return
		}
		if doubted {
			if _, err := t.server.LookupToken(ctx, tok, t.from.Namespace); secrets.KindOf(err) == secrets.Gone {
				return
			}
			sleep(ctx, min(doubtEvery, time.Until(due))) // a doubt that comes meanwhile stays
			continue
		}
		if t.from.TokenFile != "" && tok.Expires.IsZero() {
			return // read the file again
		}
		if !tok.Renewable {
			return
		}
		next, err := t.server.RenewToken(ctx, tok, t.from.Namespace)
		switch {
		case err == nil && next.TTL > 0 && next.Expires.After(tok.Expires):
			tok, due = next, renewAt(next)
		case err != nil && secrets.KindOf(err) == secrets.Outage && time.Now().Before(tok.Expires):
			due = time.Now().Add(loginRetry)
		default: // its end cannot be moved
			return
		}
	}
}

// renewAt is when half of what is left of a token's life is over.
func renewAt(tok secrets.Token) time.Time {
	if tok.Expires.IsZero() {
		return time.Now().Add(unknownTTL)
	}
	return time.Now().Add(max(time.Second, time.Until(tok.Expires)/2))
}

// doubted waits until a read is refused, or due. Then the renewal itself says whether the token is at fault.
func (t *token) doubted(ctx context.Context, due time.Time) bool {
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-t.renew:
		return time.Now().Before(due)
	}
	return false
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (t *token) login(ctx context.Context) (secrets.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	switch {
	case t.from.TokenFile != "":
		value, err := readSecretFile(t.from.TokenFile)
		if err != nil {
			return secrets.Token{}, err
		}
		tok, err := t.server.LookupToken(ctx, secrets.Token{Value: value}, t.from.Namespace)
		if secrets.KindOf(err) == secrets.Refused { // a token that may not ask about itself
			return secrets.Token{Value: value}, nil
		}
		return tok, err
	case t.from.RoleID != "":
		secretID, err := readSecretFile(t.from.SecretIDFile)
		if err != nil {
			return secrets.Token{}, err
		}
		return t.server.LoginAppRole(ctx, vault.AppRole{
			Namespace: t.from.Namespace, Mount: t.from.AppRoleMount, RoleID: t.from.RoleID, SecretID: secretID,
		})
	}
	jwt, err := readSecretFile(t.from.JWTFile)
	if err != nil {
		return secrets.Token{}, err
	}
	return t.server.Login(ctx, secrets.Login{Namespace: t.from.Namespace, Mount: t.from.JWTMount, Role: t.from.Role, JWT: jwt})
}

// readSecretFile reads a file of the operator's.
func readSecretFile(path string) (secrets.Value, error) {
	f, err := os.Open(path)
	if err != nil {
		return secrets.Value{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return secrets.Value{}, fmt.Errorf("%s: %w", path, err)
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		return secrets.Value{}, fmt.Errorf("%s is empty", path)
	}
	return secrets.TextValue(text), nil
}
