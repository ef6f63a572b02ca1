package lifecycle

import (
	"cmp"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What a session's requests are sent with differs by the provider: with the task's token where it has tokens, else with
// what it finds of the task itself.

// asker is the task, as a provider without tokens needs to know it.
func (s *Session) asker() secrets.Task {
	t := s.task
	return secrets.Task{Namespace: t.Namespace, JobID: t.JobID, Name: t.Name, Dir: t.Dir, UID: t.UID, Token: s.host.NomadToken()}
}

// namespaceOf is where a secret is asked for: where its job says, else in the namespace of the token, or of the job
// itself where there is none.
func (s *Session) namespaceOf(req secrets.Request) string {
	if s.tokens.issuer != nil && s.tokens.issuer.name == req.Provider {
		return cmp.Or(req.Namespace, s.namespace)
	}
	return cmp.Or(req.Namespace, s.task.Namespace)
}

// tokenFor is what a secret is polled with.
func (s *Session) tokenFor(p *provider) func() (secrets.Token, bool) {
	if p.tokens == nil {
		return func() (secrets.Token, bool) { return secrets.Token{}, true }
	}
	return s.tokens.inUse
}

// waitsForToken reports whether a secret cannot be asked for before there is a new token.
func (s *Session) waitsForToken(h *secretState) bool { return h.from.tokens != nil && s.tokens.lost() }

// refused finds out why a secret was refused: because the token is no good any more, or else by a policy, of which
// denied tells.
func (s *Session) refused(h *secretState, denied func()) {
	if h.from.tokens == nil {
		denied()
		return
	}
	s.askToken(limit.Rotate, denied)
}

// seen is what a poll is to know of a static secret's content.
func (h *secretState) seen() string {
	if h.from.waits != nil {
		return h.answer.Revision
	}
	return h.digest
}
