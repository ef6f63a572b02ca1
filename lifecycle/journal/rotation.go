package journal

import "github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"

// LeaseUse is what a lease is to its task, so that recovery need not guess.
type LeaseUse string

// The uses. A version before these wrote none.
const (
	LeaseFetched  LeaseUse = "fetched"  // it was made, and nothing of the task has it: a crash at this point has it revoked
	LeaseUsed     LeaseUse = "used"     // the secret has it
	LeaseReplaced LeaseUse = "replaced" // the secret has another, which is being applied: the task may still use this one
	LeaseRetired  LeaseUse = "retired"  // it is to be revoked at RevokeAt; zero: at the task's end
)

// Rotation is one that is being applied to the task (StepApplying). The secrets and values that are journalled with it
// are what the task is to have; it may still have those before, and the leases of both live. When it is applied the
// record goes, and what it replaces is retired, in one write.
type Rotation struct {
	Changes []Change // by name
}

// Change is what happens to one secret in a rotation.
type Change struct {
	Name    string
	Apply   secrets.Change // what the task is told, and how
	Cause   string         `json:",omitempty"` // empty: an older version wrote it
	Why     string         `json:",omitempty"` // empty: somebody wrote a static secret, or an older version noted no reason
	Added   bool           `json:",omitempty"` // the task has not had it before
	Dropped bool           `json:",omitempty"` // the task is to have it no more
}

// names are the changed secrets', as the versions before the record knew a rotation.
func (r *Rotation) names() []string {
	if r == nil {
		return nil
	}
	names := make([]string, 0, len(r.Changes))
	for _, c := range r.Changes {
		names = append(names, c.Name)
	}
	return names
}

// SetRotation records what is being applied; nil: nothing is.
func (e *Entry) SetRotation(r *Rotation) {
	e.Rotation, e.Applying = r, r.names()
	switch {
	case r != nil:
		e.Step = StepApplying
	case e.Step == StepApplying:
		e.Step = StepWatching
	}
}
