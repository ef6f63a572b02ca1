package lifecycle

import (
	"sync/atomic"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// tokens are a session's: whose they are, the one in use, and old ones of ours that something of the task still
// depends on. It decides what is due, and keeps the states consistent; the session sends the requests
// (token_renew.go). It belongs to the session's loop, but for inUse.
type tokens struct {
	issuer   *provider // whose they are; nil: the task needs none, and nothing else is set
	identity *identity
	current  *tokenState   // nil until the first login
	old      []*tokenState // of ours, replaced, with leases that the task may still use
	reloadAt time.Time     // when to look whether somebody replaced the token; zero: at once
	busy     bool          // a request about the token is under way

	// published is the token in use, for the polls; nil while there is none. Any goroutine may read it.
	published atomic.Pointer[secrets.Token]
}

// reloadEvery is how often the file of a token that somebody else keeps is read again. It is a local
// read; watching with inotify would cost an instance a task, of which a host has few.
const reloadEvery = 3 * time.Second

// inUse is what to poll with.
func (t *tokens) inUse() (secrets.Token, bool) {
	if tok := t.published.Load(); tok != nil {
		return *tok, true
	}
	return secrets.Token{}, false
}

// server is the address that the tokens are asked at.
func (t *tokens) server() string { return t.issuer.tokens.Address() }

// use makes a token the one in use. What becomes of the one before is the caller's matter (see retire).
func (t *tokens) use(l *tokenState) {
	t.current = l
	t.publish()
}

// publish makes what was granted for the token in use known to other goroutines.
func (t *tokens) publish() {
	tok := t.current.tok
	t.published.Store(&tok)
}

// retire keeps a token of ours that was replaced until nothing depends on it.
func (t *tokens) retire(l *tokenState) { t.old = append(t.old, l) }

// lost reports whether a new token is waited for.
func (t *tokens) lost() bool { return t.current != nil && t.current.lost }

// ended reports whether the token in use, one of ours, is of no use any more by its time, so that a new one is to come, whether the server
// has said so or not.
func (t *tokens) ended(now time.Time) bool {
	return t.current != nil && t.identity.ours() && due(now.Add(nearlyEnded), t.current.ends)
}

// lose notes that the server does not know the token in use any more. One of ours is replaced at once, another when
// its owner has replaced it.
func (t *tokens) lose(now time.Time) {
	l := t.current
	l.lost = true
	l.renew, l.check = time.Time{}, time.Time{}
	if t.identity.ours() {
		l.rotate = now
	}
	t.published.Store(nil)
}

// of is the token with an id: the one that a journalled lease was made under.
func (t *tokens) of(id string) *tokenState {
	for _, l := range t.old {
		if l.tok.ID == id {
			return l
		}
	}
	return t.current
}

// tokenStep is what is due with the token in use.
type tokenStep int

const (
	tokenWaits tokenStep = iota
	tokenReplace
	tokenRenew
	tokenCheck
)

// reloadDue reports whether it is time to look for a token that somebody else replaces, and when it is next.
func (t *tokens) reloadDue(now time.Time) (isDue bool, next time.Time) {
	if !t.identity.reloads() {
		return false, time.Time{}
	}
	if isDue = t.reloadAt.IsZero() || due(now, t.reloadAt); isDue {
		t.reloadAt = now.Add(reloadEvery)
	}
	return isDue, t.reloadAt
}

// step decides what is due with the token in use, and when something will be if nothing is. need is the longest
// time that a rotation of the task may take: a token of ours that cannot be renewed any more is replaced in time.
func (t *tokens) step(now time.Time, need func() time.Duration) (tokenStep, time.Time) {
	l := t.current
	if l.renew.IsZero() && l.rotate.IsZero() && !l.ends.IsZero() && t.identity.ours() {
		l.rotate = rotateAt(now, l.ends, l.firstTTL, need())
	}
	switch {
	case t.busy: // the answer wakes the loop
		return tokenWaits, time.Time{}
	case due(now, l.rotate):
		return tokenReplace, time.Time{}
	case due(now, l.renew):
		return tokenRenew, time.Time{}
	case due(now, l.check):
		return tokenCheck, earliest(l.rotate, l.renew)
	}
	return tokenWaits, earliest(l.rotate, l.renew, l.check)
}

// takeUnused removes the old tokens that nothing depends on any more: those that have ended by themselves, and those
// to be revoked. next is when the first of the others ends.
func (t *tokens) takeUnused(now time.Time, used func(*tokenState) bool) (ended, unused []*tokenState, next time.Time) {
	rest := t.old[:0]
	for _, l := range t.old {
		switch {
		case due(now, l.ends):
			ended = append(ended, l)
		case used(l):
			next = earliest(next, l.ends)
			rest = append(rest, l)
		default:
			unused = append(unused, l)
		}
	}
	t.old = rest
	return ended, unused, next
}

// forgettable reports whether a token may leave the journal: not while it is the one in use, too.
func (t *tokens) forgettable(l *tokenState) bool { return l.tok.ID != t.current.tok.ID }
