package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// vaultTokenFile is where Nomad puts the token of a job's vault block, below the task directory.
const vaultTokenFile = "private/vault_token"

// howToIdentify is what to add to a job that gives its task no right to read anything.
const howToIdentify = `the task has no identity to read secrets with: add to it
  identity {
    name     = "vault"
    aud      = ["vault.io"]
    ttl      = "1h"
    file     = true
    filepath = "private/vault.jwt"
  }
or a vault {} block`

// identity is whose rights a session reads with, and where its tokens come from (docs/vault.md, "Whose token"). It is
// fixed at the start; the tokens change (tokens.go).
type identity struct {
	source journal.TokenSource
	role   string // identity only
	// byDefault: the job names no role, and this is the operator's.
	byDefault bool
	mount     string // identity only
	file      string // the token's or the JWT's, below dir; empty: the token came by environment
	env       string // the task's VAULT_TOKEN
}

// tokenState is one token of a session, and what is known of its end. All but tok.Value and tok.ID is
// the loop's.
type tokenState struct {
	tok      secrets.Token
	since    time.Time     // when it was got
	firstTTL time.Duration // the TTL granted first; a renewal that gives less is the last
	ends     time.Time     // zero: never, or not known

	renew  time.Time // zero: not to be renewed
	rotate time.Time // when to log in again; zero: never, or not known yet
	check  time.Time // when to look whether the server still knows it
	fails  int
	// unanswered: the last renewal or login had no answer; renew or rotate is when to try again.
	unanswered bool
	// checking: such a look waits for its turn, or is under way.
	checking bool
	// lost: the server does not know it any more; a new one is waited for.
	lost bool
}

// id is the token's; empty without one.
func (l *tokenState) id() string {
	if l == nil {
		return ""
	}
	return l.tok.ID
}

// identify finds which identity a task has, that is to ask a provider with tokens in namespace: the first of the vault
// block, the identity block and the node's token.
func (k *Keeper) identify(st Start, issuer *provider, namespace string) (*identity, error) {
	if err := k.files.harden(st.Task.Dir); err != nil {
		return nil, fmt.Errorf("close the task's private directory: %w", err)
	}
	here := func(rel string) bool {
		_, err := os.Lstat(filepath.Join(st.Task.Dir, rel))
		return err == nil
	}
	jwt := st.Spec.IdentityFile
	if jwt == "" {
		jwt = k.cfg.JWTFile
	}
	switch {
	case here(vaultTokenFile):
		return &identity{source: journal.FromVaultBlock, file: vaultTokenFile}, nil
	case st.Env["VAULT_TOKEN"] != "":
		return &identity{source: journal.FromVaultBlock, env: st.Env["VAULT_TOKEN"]}, nil
	case jwt != "" && here(jwt):
		id := &identity{source: journal.FromIdentity, file: jwt, role: st.Spec.Role, mount: k.cfg.JWTMount}
		if id.role == "" {
			id.role, id.byDefault = k.cfg.JWTRole, true
		}
		return id, nil
	case k.cfg.TokenFile != "":
		return &identity{source: journal.FromNodeFile}, k.mayReadAsNode(issuer, st.Spec, namespace)
	}
	if elsewhere := k.identityElsewhere(st, jwt); elsewhere != "" {
		return nil, secrets.Errorf(secrets.Invalid, "%s", elsewhere)
	}
	if st.Spec.IdentityFile != "" {
		return nil, secrets.Errorf(secrets.Invalid, "identity_file %s is not in the task directory; %s", jwt, howToIdentify)
	}
	return nil, secrets.Errorf(secrets.Invalid, "%s", howToIdentify)
}

// ours reports whether the tokens are our own, to be renewed and revoked.
func (id *identity) ours() bool { return id.source == journal.FromIdentity }

// reloads reports whether the token is in a file that somebody else replaces.
func (id *identity) reloads() bool {
	return id.source == journal.FromNodeFile || id.source == journal.FromVaultBlock && id.file != ""
}

// describe is how an event names the identity.
func (id *identity) describe() string {
	switch id.source {
	case journal.FromVaultBlock:
		return "the token of the job's vault block"
	case journal.FromIdentity:
		return fmt.Sprintf("the task's identity (role %s)", id.role)
	}
	return "the node's token"
}

// describeRole says where a role comes from that the job does not name.
func (id *identity) describeRole() string {
	if id.byDefault {
		return "role " + id.role + ", the default, as the job names none"
	}
	return "role " + id.role
}

// readToken gives the token that somebody else keeps for us: Nomad, or the operator. It makes no
// request.
func (s *Session) readToken() (secrets.Token, error) {
	id := s.tokens.identity
	var v secrets.Value
	var err error
	switch {
	case id.source == journal.FromNodeFile:
		var b []byte
		b, err = os.ReadFile(s.k.cfg.TokenFile)
		v = secrets.NewValue(b)
	case id.file == "":
		v = secrets.TextValue(id.env)
	default:
		v, err = s.k.files.read(s.task.Dir, id.file)
	}
	if err != nil {
		return secrets.Token{}, fmt.Errorf("read %s: %w", id.describe(), mayCome(err))
	}
	v = secrets.NewValue(bytes.TrimSpace(v.Bytes()))
	if v.IsEmpty() {
		return secrets.Token{}, secrets.Errorf(secrets.Outage, "read %s: it is empty", id.describe())
	}
	return secrets.Token{Value: v, ID: s.k.tokenID(v), Server: s.tokens.server()}, nil
}

// mayCome is err, as an outage if it says that a file is not there: Nomad and operators replace such
// files, and not always in one step.
func mayCome(err error) error {
	if secrets.KindOf(err) == secrets.NotFound || errors.Is(err, fs.ErrNotExist) {
		return secrets.Errorf(secrets.Outage, "%w", err)
	}
	return err
}

// logIn gets a token: it reads the one kept for us, or exchanges the task's JWT for one, in one
// request. A token of ours is in the journal before logIn returns, for it must be revoked (E2).
func (s *Session) logIn(ctx context.Context) (*tokenState, error) {
	id := s.tokens.identity
	if id.source != journal.FromIdentity {
		tok, err := s.readToken()
		if err != nil {
			return nil, err
		}
		return &tokenState{tok: tok, since: time.Now()}, s.journal.SaveToken(id.source, tok)
	}
	jwt, err := s.k.files.read(s.task.Dir, id.file, s.task.UID)
	if err != nil {
		return nil, fmt.Errorf("read the task's identity: %w", mayCome(err))
	}
	at := time.Now()
	tok, err := s.tokens.issuer.tokens.Login(ctx, secrets.Login{Namespace: s.namespace, Mount: id.mount, Role: id.role, JWT: jwt})
	s.logRequest("login", at, err, "role", id.role)
	if err != nil {
		if k := secrets.KindOf(err); k != secrets.Outage && due(at, secrets.JWTExpiry(jwt)) {
			// Nomad renews the file, once its own servers are back (S2).
			return nil, secrets.Errorf(secrets.Outage, "log in with the task's identity, which has expired and Nomad has not renewed yet (nor does it for a poststop task, once the allocation is stopped: give that a longer ttl): %w", err)
		}
		return nil, fmt.Errorf("log in with the task's identity (%s): %w", id.describeRole(), err)
	}
	tok.ID, tok.Server = s.k.tokenID(tok.Value), s.tokens.server()
	crashpoint.Reached(crashpoint.LoginAnswered, s.task.Name)
	if err := s.journal.SaveToken(journal.FromIdentity, tok); err != nil {
		// What is not written down would outlive us: better no token than a leaked one.
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("journal the new token: %w", err), s.tokens.issuer.tokens.RevokeToken(cctx, tok, s.namespace))
	}
	crashpoint.Reached(crashpoint.TokenJournalled, s.task.Name)
	l := &tokenState{since: at}
	l.granted(at, tok, s.k.random())
	return l, nil
}

// seen takes in when the server says that the token ends. That may be sooner than was granted: then it is renewed, or replaced,
// sooner, too. A login that is due, or is to be tried again, is not.
func (l *tokenState) seen(now, ends time.Time, r float64) {
	if !ends.IsZero() && ends.Before(l.ends.Add(-clockSlack)) {
		switch {
		case !l.renew.IsZero():
			l.renew = earliest(l.renew, renewAt(now, ends.Sub(now), r))
		case !l.lost && l.fails == 0:
			l.rotate = time.Time{} // step decides anew
		}
	}
	l.ends = ends
}

// endRenewals notes that the token is renewed no more. It is replaced in time (step), and what fails from then on are logins.
func (l *tokenState) endRenewals() { l.renew, l.fails, l.unanswered = time.Time{}, 0, false }

// granted takes in what a login or a renewal at a moment gave.
func (l *tokenState) granted(at time.Time, tok secrets.Token, r float64) {
	if tok.ID == "" { // a renewal's: it is the same token
		tok.ID, tok.Accessor, tok.Batch = l.tok.ID, l.tok.Accessor, l.tok.Batch
	}
	l.tok, l.fails, l.unanswered = tok, 0, false
	l.renew, l.rotate, l.ends = time.Time{}, time.Time{}, tok.Expires
	if tok.TTL <= 0 {
		return // it lives until it is revoked
	}
	if l.firstTTL == 0 {
		l.firstTTL = tok.TTL
	}
	if l.ends.IsZero() {
		l.ends = at.Add(tok.TTL)
	}
	if tok.Renewable && !atMaximum(l.firstTTL, tok.TTL) {
		l.renew = renewedAt(at, l.ends.Add(-tok.TTL), tok.TTL, r)
	}
}
