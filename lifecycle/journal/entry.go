package journal

import (
	"encoding/json"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// entryVersion is the version that this code writes. It reads that and older ones. Raise it when an
// older plugin would do harm with what is written; a field that it may ignore needs no new version.
const entryVersion = 1

// Step names what is under way with a task, so that recovery knows where it was interrupted (E2).
type Step string

// The steps. Their values are the first version's.
const (
	StepStarting Step = "starting" // not all secrets are there
	StepWatching Step = "watching" // the task has its secrets
	// StepApplying is while new secrets are being applied to the task. What is journalled is the new; the task
	// may still have the old, and the leases of both live.
	StepApplying Step = "acting"
)

// TokenSource says whose a token is, and so who may revoke it (docs/vault.md, "Whose token").
type TokenSource string

// The sources.
const (
	FromVaultBlock TokenSource = "vault"    // Nomad owns it: never revoked by us
	FromIdentity   TokenSource = "identity" // ours: revoked at the end, and all leases with it
	FromNodeFile   TokenSource = "node"     // the operator's: never revoked by us
)

// Entry is what is written about one task. No secret is in it (L2): tokens and values rest in files
// of their own beside it.
type Entry struct {
	Version int
	Task    Task
	Step    Step
	Config  secrets.TaskConfig // compiled again at recovery
	Driver  json.RawMessage    `json:",omitempty"` // the driver's own notes

	TokenSource   TokenSource `json:",omitempty"` // empty: no provider of the task's has tokens
	TokenProvider string      `json:",omitempty"` // whose tokens they are
	// TokenID is of the token in use; its value is in the token file. Here and below the name in the file is the first
	// version's, which knew tokens by their accessor: batch tokens have none.
	TokenID   string `json:"TokenAccessor"`
	Namespace string
	Role      string
	// OwnEnv are the names of the variables that the job itself sets: what its policies grant sets none of them.
	OwnEnv []string `json:",omitempty"`

	Secrets map[string]Secret `json:",omitempty"` // by name: what the task has now
	// Leases is every lease that the server made for the task and that is not known to be ended.
	Leases []Lease `json:",omitempty"`
	// Rotation is what is being applied to the task (StepApplying).
	Rotation *Rotation `json:",omitempty"`
	// Applying are its secrets' names: all that versions before the record wrote, and read.
	Applying []string `json:"Pending,omitempty"`

	// KeepTokens is set in a pending revocation of single leases: its tokens are copies, in use by a task that
	// goes on, and must not be revoked.
	KeepTokens bool `json:",omitempty"`
}

// Secret is where one secret of a task stands. Which fields mean something depends on Kind.
type Secret struct {
	Provider  string `json:",omitempty"`
	Kind      secrets.Kind
	Own       bool            `json:",omitempty"` // another token finds something else at its path
	LeaseID   secrets.LeaseID `json:",omitempty"`
	Duration  time.Duration   `json:",omitempty"` // granted at issue or at the last renewal
	Renewable bool            `json:",omitempty"`
	IssuedAt  time.Time       `json:",omitzero"`
	ExpiresAt time.Time       `json:",omitzero"` // of the lease, as last granted
	Ends      time.Time       `json:",omitzero"` // Issued: when the content stops being valid
	// LookedAt is when the server was last known to have what a live directory has of it.
	LookedAt time.Time `json:",omitzero"`
	// TokenID is of the token that the secret was read with: a lease ends with it.
	TokenID string `json:"TokenAccessor,omitempty"`
	// What the session has decided, so that a recovery neither forgets nor repeats it.
	RenewAt     time.Time `json:",omitzero"`
	RotateAt    time.Time `json:",omitzero"`
	Cause       string    `json:",omitempty"`       // the reason for RotateAt; empty: an older version wrote it
	Why         string    `json:",omitempty"`       // the same, as events say it
	Undelivered bool      `json:"Untold,omitempty"` // the task has not had it yet (the field's first name is kept)
	// When and why the task was last given another, for operators.
	ChangedAt time.Time `json:",omitzero"`
	ChangedBy string    `json:",omitempty"`
}

// Lease is what revoking a lease takes.
type Lease struct {
	Provider string `json:",omitempty"`
	ID       secrets.LeaseID
	TokenID  string `json:"TokenAccessor"` // of the token that it was made under
	// Ends is when it ends by itself, as last granted: addLease again after a renewal. From then on
	// its revocation is not waited for. Zero: not known.
	Ends time.Time `json:",omitzero"`
	// Use is what it is to the task. Empty: an older version wrote it.
	Use LeaseUse `json:",omitempty"`
	// Secret is the name of the secret that it was made for.
	Secret string `json:",omitempty"`
	// RevokeAt is when to revoke it, of a lease that was replaced.
	RevokeAt time.Time `json:",omitzero"`
}

// nameProviders gives what an older version wrote, which knew one provider only, that one's name.
func (e *Entry) nameProviders() {
	named := func(p *string) {
		if *p == "" {
			*p = secrets.DefaultProvider
		}
	}
	if e.TokenSource != "" {
		named(&e.TokenProvider)
	}
	for name, s := range e.Secrets {
		named(&s.Provider)
		e.Secrets[name] = s
	}
	for i := range e.Leases {
		named(&e.Leases[i].Provider)
	}
}
