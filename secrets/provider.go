package secrets

import (
	"context"
	"time"
)

// LeaseID names a lease on the secrets server. It is no secret by itself: it revokes and renews
// only with a token that may.
type LeaseID string

// Token is the right to ask the secrets server. Value is the credential itself.
type Token struct {
	Value    Value
	Accessor string
	// Expires is when the server forgets the token and all leases under it; zero: never, or unknown.
	Expires time.Time
	// TTL is what the server granted at the last login or renewal.
	TTL       time.Duration
	Renewable bool
}

// Request asks for one secret, in the words of the job.
type Request struct {
	Namespace string
	Path      string            // as typed at the CLI
	Version   int               // KV v2 only; 0: the newest
	Params    map[string]string // not nil: the request is a write
}

// Kind says how a secret changes, and so how it is watched.
type Kind int

const (
	// Static secrets (KV) change when somebody writes them: they are polled.
	Static Kind = iota
	// Leased secrets have a lease: they are renewed while that goes, then fetched anew.
	Leased
	// Issued secrets end at a known time without a lease (a certificate, a signed key): they are
	// fetched anew at a fraction of their life, and never polled, for each read makes a new one.
	Issued
	// Opaque secrets have neither a lease nor a known end, on a mount of unknown type. They are
	// never polled: a read might mint a credential.
	Opaque
)

// Lease is what the server lends a secret for.
type Lease struct {
	ID        LeaseID
	Duration  time.Duration // granted at issue or at the last renewal
	Renewable bool
}

// Answer is the server's answer to one Request.
type Answer struct {
	Kind   Kind
	Fields Fields
	Lease  Lease     // Leased only
	Ends   time.Time // Issued only: when the content stops being valid, by our clock
	// Changes is when the server itself will put another content in this one's place, of what is
	// Static; zero: only when somebody writes it, or not known.
	Changes time.Time
	// Own says that another token finds something else at the same path (a cubbyhole).
	Own bool
	At  time.Time // when the request was sent; a lease's end is counted from here
}

// Login is what a task's identity is exchanged for a token with.
type Login struct {
	Namespace string
	Mount     string // of the JWT auth method
	Role      string
	JWT       Value
}

// Provider is a secrets server. Every error it returns is of a kind in errors.go. Each call is one
// attempt, bounded by ctx: waiting and trying again is the caller's. Safe for concurrent use.
type Provider interface {
	// Read fetches a secret: one request, plus a mount look-up where none is cached (S3). For a
	// leased secret this mints a credential.
	Read(ctx context.Context, tok Token, req Request) (Answer, error)

	// Renew extends a lease. The answer's Duration counts from now and may be shorter than asked
	// for: then the lease has reached its maximum. A lease the server does not know is KindGone.
	Renew(ctx context.Context, tok Token, namespace string, id LeaseID, increment time.Duration) (Lease, error)

	// LeaseTTL is how long a lease still lives; KindGone if the server does not know it.
	LeaseTTL(ctx context.Context, tok Token, namespace string, id LeaseID) (time.Duration, error)

	// Revoke ends a lease. One that is gone already is no error.
	Revoke(ctx context.Context, tok Token, namespace string, id LeaseID) error

	// Login exchanges a workload's JWT for a token.
	Login(ctx context.Context, in Login) (Token, error)

	// RenewToken extends tok; the answer has the same Value.
	RenewToken(ctx context.Context, tok Token, namespace string) (Token, error)

	// LookupToken says what is left of tok; KindGone if the server does not know it.
	LookupToken(ctx context.Context, tok Token, namespace string) (Token, error)

	// RevokeToken ends tok and with it every lease under it. One that is gone already is no error.
	RevokeToken(ctx context.Context, tok Token, namespace string) error
}
