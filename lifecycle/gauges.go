package lifecycle

import (
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Gauges is how things stand with all that a Keeper has to do with.
type Gauges struct {
	Tasks              []TaskGauges
	RevocationsPending int
	// Outage: the server of a provider does not answer.
	Outage bool
}

// TaskGauges is how things stand with one task.
type TaskGauges struct {
	Task    Task
	Secrets []SecretGauge // by name
}

// SecretGauge is how things stand with one secret of a task.
type SecretGauge struct {
	Name    string
	Expires time.Time // zero: it does not end, or it is not known when
	// Renews is when it is to be renewed or replaced, or was to be if that fails; zero: nothing is planned.
	Renews time.Time
	// Ready: the task has it, it is valid, and nothing that is to replace it has failed.
	Ready bool
}

// ReadyAt reports whether a secret is ready at a moment: it may have ended since it was last looked at.
func (g SecretGauge) ReadyAt(now time.Time) bool { return g.Ready && !due(now, g.Expires) }

// Gauges asks nobody, and waits for no session.
func (k *Keeper) Gauges() (Gauges, error) {
	g := Gauges{Outage: k.requests.outage(time.Now())}
	k.mu.Lock()
	for _, s := range k.sessions {
		if all := s.gauges.Load(); all != nil {
			g.Tasks = append(g.Tasks, TaskGauges{s.task, *all})
		}
	}
	k.mu.Unlock()
	var err error
	g.RevocationsPending, err = k.revocations.Pending()
	return g, err
}

// publishStarting says that the task that starts does not have what its job declares.
func (s *Session) publishStarting() {
	all := make([]SecretGauge, 0, len(s.spec.Secrets))
	for i := range s.spec.Secrets {
		if sec := &s.spec.Secrets[i]; sec.Required {
			all = append(all, SecretGauge{Name: sec.Name})
		}
	}
	s.gauges.Store(&all)
}

// publishGauges says how things stand. What was published is not changed any more.
func (s *Session) publishGauges(now time.Time) {
	before := s.gauges.Load()
	all := make([]SecretGauge, 0, len(s.secrets))
	for name, h := range s.secrets {
		all = append(all, s.gaugeOf(now, name, h))
	}
	slices.SortFunc(all, func(a, b SecretGauge) int { return strings.Compare(a.Name, b.Name) })
	if s.ctx.Err() == nil && (before == nil || !slices.Equal(*before, all)) {
		s.gauges.CompareAndSwap(before, &all) // not over what unready says
	}
}

func (s *Session) gaugeOf(now time.Time, name string, h *secretState) SecretGauge {
	c := s.changes[name]
	rotationFails := c != nil && c.fails > 0
	if renewalFails := !h.renew.IsZero() && h.fails > 0; !rotationFails && !renewalFails {
		h.planned = s.nextOf(h, c)
	}
	st := s.statics[name]
	return SecretGauge{
		Name: name, Expires: s.endOf(h), Renews: h.planned,
		Ready: !h.lost && !h.undelivered && !rotationFails && !(st != nil && st.fails > 0) && !due(now, s.endOf(h)),
	}
}

// nextOf is when a secret is to be renewed or replaced: by the change that waits, or as it is scheduled, or when its token
// is, without which it ends.
func (s *Session) nextOf(h *secretState, c *change) time.Time {
	switch scheduled := earliest(h.renew, h.rotate); {
	case c != nil:
		return c.at
	case !scheduled.IsZero():
		return scheduled
	case h.answer.Kind == secrets.Leased && h.token != nil && s.endsWithToken(h):
		return h.token.rotate
	}
	return time.Time{}
}

// unready says that nobody watches over the task's secrets any more.
func (s *Session) unready() {
	before := s.gauges.Load()
	if before == nil {
		return
	}
	all := slices.Clone(*before)
	for i := range all {
		all[i].Ready = false
	}
	s.gauges.Store(&all)
}
