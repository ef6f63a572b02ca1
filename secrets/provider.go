package secrets

import "time"

// LeaseID names a lease on the secrets server. It is no secret by itself: it revokes and renews
// only with a token that may.
type LeaseID string

// Token is the right to ask the secrets server. Value is the credential itself.
type Token struct {
	Value Value
	// ID is what we know the token by: a keyed hash, given to it when it is first seen.
	ID string
	// Server is the address of the server that knows it; empty: not known.
	Server string
	// Accessor is the server's name for it, for operators; a batch token has none.
	Accessor string
	// Batch tokens are neither renewed nor revoked, and their leases end with them.
	Batch bool
	// Expires is when the server forgets the token and all leases under it; zero: never, or unknown.
	Expires time.Time
	// TTL is what the server granted at the last login or renewal.
	TTL       time.Duration
	Renewable bool
}

// DefaultProvider is the provider of a secret whose job names none.
const DefaultProvider = "vault"

// NomadProvider is the provider of Nomad Variables.
const NomadProvider = "nomad"

// Request asks for one secret, as the job names it.
type Request struct {
	Provider  string
	Namespace string
	Path      string            // as typed at the CLI
	Version   int               // KV v2 only; 0: the newest
	Params    map[string]string // not nil: the request is a write
	// Mounted has a path refused that is on no engine which the server tells of in the namespace: to a server
	// with namespaces, a path may begin with the name of another.
	Mounted bool
	// Task is for whom the secret is asked for. Whoever sends the request sets it; no job can.
	Task Task
}

// Task is a task, as a provider needs to know it that has no tokens: it finds what the task may ask with in the
// task's own directory.
type Task struct {
	Namespace, JobID, Name string
	Dir                    string // the task directory on the host
	UID                    int    // of the job's `user` on the host; 0 if there is none
	// Token is Nomad's own in the task's environment, where the task is to be asked for with it; empty: there is none.
	Token Value
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
	// never polled: a read might make a credential.
	Opaque
)

// Lease is what the server lends a secret for.
type Lease struct {
	ID        LeaseID
	Duration  time.Duration // granted at issue or at the last renewal
	Renewable bool
	// Since is when it was granted, of a renewal that somebody before the server had made already; zero: just now.
	Since time.Time
}

// Answer is the server's answer to one Request.
type Answer struct {
	Kind   Kind
	Fields Fields
	Lease  Lease     // Leased only
	Ends   time.Time // Issued only: when the content stops being valid, by our clock
	// Changes is when the server itself will put another content in this one's place, of what is
	// Static, by our clock; zero: only when somebody writes it, or not known.
	Changes time.Time
	// Settings are fields, by name, that tell how the engine is set up, of what is Static: the content is the same
	// whatever they are.
	Settings []string
	// Own says that another token finds something else at the same path (a cubbyhole).
	Own bool
	// Revision names what was answered, for a wait for the next; empty where a provider has no waits.
	Revision string
	At       time.Time // when the request was sent; a lease's end is counted from here
}

// Login is what a task's identity is exchanged for a token with.
type Login struct {
	Namespace string
	Mount     string // of the JWT auth method
	Role      string
	JWT       Value
}
