package lifecycle

import (
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Gauges is how things stand with all that a Keeper has to do with.
type Gauges struct {
	Tasks              []TaskGauges
	RevocationsPending int
	// Outage: the server of a provider does not answer.
	Outage bool
	// RequestRate is how many background requests a second go to the server that is asked the least.
	RequestRate float64
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
	g := Gauges{Outage: k.requests.outage(time.Now()), RequestRate: k.limit.Rate()}
	k.mu.Lock()
	for _, s := range k.sessions {
		g.Tasks = append(g.Tasks, TaskGauges{s.task, s.gauges()})
	}
	k.mu.Unlock()
	var err error
	g.RevocationsPending, err = k.revocations.Pending()
	return g, err
}

// gauges are those that the session has last published; none is ready while nobody watches over the task's secrets. Any
// goroutine may call it.
func (s *Session) gauges() []SecretGauge {
	all := s.published.Load().gauges
	if s.failed.Load() {
		all = slices.Clone(all)
		for i := range all {
			all[i].Ready = false
		}
	}
	return all
}

// gaugesNow are those of the secrets that the task has. While it starts it is to have what its job declares, and nothing of
// that is ready.
func (s *Session) gaugesNow(now time.Time) []SecretGauge {
	all := make([]SecretGauge, 0, len(s.spec.Secrets))
	for i := range s.spec.Secrets {
		sec := &s.spec.Secrets[i]
		if h := s.secrets[sec.Name]; s.phase != phaseStarting && h != nil {
			all = append(all, s.gaugeOf(now, sec.Name, h))
		} else if s.phase == phaseStarting && sec.Required {
			all = append(all, SecretGauge{Name: sec.Name})
		}
	}
	return all
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
