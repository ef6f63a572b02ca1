package lifecycle

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
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

// identity is whose rights a session reads with, and where its tokens come from (DESIGN 5). It is
// fixed at the start; the tokens change.
type identity struct {
	source tokenSource
	role   string // identity only
	mount  string // identity only
	file   string // the token's or the JWT's, below dir; empty: the token came by environment
	env    string // the task's VAULT_TOKEN
	// current is the token in use, for the polls; nil while there is none. Only the loop changes it.
	current atomic.Pointer[secrets.Token]
}

// login is one token of a session, and what is known of its end. All but tok.Value and tok.Accessor
// is the loop's.
type login struct {
	tok   secrets.Token
	since time.Time     // when it was got
	asked time.Duration // the TTL granted first; a renewal that gives less is the last
	ends  time.Time     // zero: never, or not known

	renew  time.Time // zero: not to be renewed
	rotate time.Time // when to log in anew; zero: never, or not known yet
	check  time.Time // when to look whether the server still knows it
	fails  int
	// checking: such a look waits for its turn, or is under way.
	checking bool
	// dead: the server does not know it any more; a new one is waited for.
	dead bool
}

// identify finds which identity a task has: the first of the vault block, the identity block and
// the node's token.
func (k *Keeper) identify(st Start) (*identity, error) {
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
		return &identity{source: fromVaultBlock, file: vaultTokenFile}, nil
	case st.Env["VAULT_TOKEN"] != "":
		return &identity{source: fromVaultBlock, env: st.Env["VAULT_TOKEN"]}, nil
	case jwt != "" && here(jwt):
		id := &identity{source: fromIdentity, file: jwt, role: st.Spec.Role, mount: k.cfg.JWTMount}
		if id.role == "" {
			id.role = k.cfg.JWTRole
		}
		return id, nil
	case k.cfg.TokenFile != "":
		return &identity{source: fromNodeFile}, k.mayReadAsNode(st.Spec)
	case st.Spec.IdentityFile != "":
		return nil, secrets.Errorf(secrets.Invalid, "identity_file %s is not in the task directory; %s", jwt, howToIdentify)
	}
	return nil, secrets.Errorf(secrets.Invalid, "%s", howToIdentify)
}

// mayReadAsNode refuses what the node's token is not for, before any request is made with it.
func (k *Keeper) mayReadAsNode(spec *secrets.Spec) error {
	for i := range spec.Secrets {
		sec := &spec.Secrets[i]
		if sec.Request.Params != nil {
			return secrets.Errorf(secrets.Invalid, "secret %q: params need an identity of the task's own, and only the node's token is there; %s", sec.Name, howToIdentify)
		}
		allowed := false
		for _, glob := range k.cfg.TokenFilePaths {
			allowed = allowed || matchPath(glob, sec.Request.Path)
		}
		if !allowed {
			return secrets.Errorf(secrets.Invalid, "secret %q: the operator's token_file_paths do not allow %s; %s", sec.Name, sec.Request.Path, howToIdentify)
		}
	}
	return nil
}

// matchPath matches as the server's own policies do: `+` is one segment, a `*` at the end is any
// rest.
func matchPath(glob, path string) bool {
	prefix, open := strings.CutSuffix(glob, "*")
	gs, ps := strings.Split(prefix, "/"), strings.Split(path, "/")
	if slices.Contains(ps, "..") || len(ps) < len(gs) || (!open && len(ps) != len(gs)) {
		return false
	}
	for i, g := range gs {
		switch {
		case open && i == len(gs)-1:
			return strings.HasPrefix(ps[i], g)
		case g == "+" && ps[i] != "":
		case g != ps[i]:
			return false
		}
	}
	return true
}

// token is what to poll with.
func (id *identity) token() (secrets.Token, bool) {
	if tok := id.current.Load(); tok != nil {
		return *tok, true
	}
	return secrets.Token{}, false
}

// follows reports whether the token is in a file that somebody else replaces.
func (id *identity) follows() bool {
	return id.source == fromNodeFile || id.source == fromVaultBlock && id.file != ""
}

// describe is how an event names the identity.
func (id *identity) describe() string {
	switch id.source {
	case fromVaultBlock:
		return "the token of the job's vault block"
	case fromIdentity:
		return fmt.Sprintf("the task's identity (role %s)", id.role)
	}
	return "the node's token"
}

// readToken gives the token that somebody else keeps for us: Nomad, or the operator. It makes no
// request.
func (s *Session) readToken() (secrets.Token, error) {
	id := s.identity
	var v secrets.Value
	var err error
	switch {
	case id.source == fromNodeFile:
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
	return secrets.Token{Value: v}, nil
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
func (s *Session) logIn(ctx context.Context) (*login, error) {
	id := s.identity
	if id.source != fromIdentity {
		tok, err := s.readToken()
		if err != nil {
			return nil, err
		}
		return &login{tok: tok, since: time.Now()}, s.journal.saveToken(id.source, tok)
	}
	jwt, err := s.k.files.read(s.task.Dir, id.file, s.task.UID)
	if err != nil {
		return nil, fmt.Errorf("read the task's identity: %w", mayCome(err))
	}
	at := time.Now()
	tok, err := s.k.cfg.Provider.Login(ctx, secrets.Login{Namespace: s.namespace, Mount: id.mount, Role: id.role, JWT: jwt})
	if err != nil {
		if k := secrets.KindOf(err); k != secrets.Outage && expired(jwt, at) {
			// Nomad renews the file, once its own servers are back (S2).
			return nil, secrets.Errorf(secrets.Outage, "log in with the task's identity, which has expired and Nomad has not renewed yet: %w", err)
		}
		return nil, fmt.Errorf("log in with the task's identity (role %s): %w", id.role, err)
	}
	crashpoint.Reached(crashpoint.LoginAnswered, s.task.Name)
	if err := s.journal.saveToken(fromIdentity, tok); err != nil {
		// What is not written down would outlive us: better no token than a leaked one.
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("journal: %w", err), s.k.cfg.Provider.RevokeToken(cctx, tok, s.namespace))
	}
	crashpoint.Reached(crashpoint.TokenJournalled, s.task.Name)
	l := &login{since: at}
	l.granted(at, tok, s.k.random())
	return l, nil
}

// granted takes in what a login or a renewal at a moment gave.
func (l *login) granted(at time.Time, tok secrets.Token, r float64) {
	l.tok, l.fails = tok, 0
	l.renew, l.rotate, l.ends = time.Time{}, time.Time{}, tok.Expires
	if tok.TTL <= 0 {
		return // it lives until it is revoked
	}
	if l.asked == 0 {
		l.asked = tok.TTL
	}
	if l.ends.IsZero() {
		l.ends = at.Add(tok.TTL)
	}
	if tok.Renewable && !atMaximum(l.asked, tok.TTL) {
		l.renew = renewAt(at, tok.TTL, r)
	}
}

// expired reports whether a JWT says of itself that it is over. Nothing is verified: it only tells
// a refusal that waiting can mend from others.
func expired(jwt secrets.Value, now time.Time) bool {
	parts := bytes.Split(jwt.Bytes(), []byte("."))
	if len(parts) != 3 {
		return false
	}
	payload := make([]byte, base64.RawURLEncoding.DecodedLen(len(parts[1])))
	if _, err := base64.RawURLEncoding.Decode(payload, parts[1]); err != nil {
		return false
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Exp == 0 {
		return false
	}
	return now.After(time.Unix(int64(claims.Exp), 0))
}
