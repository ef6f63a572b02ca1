package lifecycle

import (
	"context"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/steps"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// begin gets all that the task needs (S1): a token, then every secret at once. Whatever the server
// makes is in the journal before the next step. It waits out an outage until Config.StartTimeout.
func (s *Session) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(limit.For(ctx, s.tenant()), s.k.cfg.StartTimeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)() // Close does not wait for an outage
	s.waiting = newWaiting(s.host.Event)
	s.starting = s.k.memory.open()
	defer func() {
		s.starting.close()
		s.starting = nil
	}()
	return steps.Run(ctx,
		steps.Step{Do: s.firstLogin},
		steps.Step{Do: s.discoverFirst},
		// What the policies grant comes after what the job declares: it takes no room from that.
		steps.Step{Do: s.fetchDeclared},
		steps.Step{Do: s.fetchGranted},
	)
}

// fetchGranted gets what the policies grant, renders all that there is, and journals it.
func (s *Session) fetchGranted(ctx context.Context) error {
	grants := s.requestGrants()
	defer grants.close()
	if err := grants.await(ctx); err != nil {
		return err
	}
	if err := s.renderFirst(time.Now(), grants); err != nil {
		return err
	}
	s.openLive(time.Now(), func(_ string, h *secretState) time.Time { return h.answer.At })
	s.emitSkipped()
	s.emitOverlap()
	grants.awaitRest()
	s.publish(time.Now())
	crashpoint.Reached(crashpoint.SecretsJournalled, s.task.Name)
	return nil
}

// renderFirst renders and journals what the task starts with. Of what the policies grant it leaves out what does not
// fit, or cannot be journalled.
func (s *Session) renderFirst(now time.Time, grants *grants) error {
	s.phase = phaseLaunching // from what is journalled next on
	for {
		fitted, err := secrets.Fit(s.spec, s.answers(nil), s.around(nil))
		if err != nil {
			return grants.explain(err)
		}
		login, err := s.spec.RegistryLogin(s.answers(nil))
		if err != nil {
			return err
		}
		s.pull.login.Store(login)
		s.set.Store(fitted.Set)
		s.fitted(now, fitted)
		for _, h := range s.secrets {
			s.schedule(now, h)
		}
		if err = s.journalSecrets(); err == nil {
			return nil
		}
		if !s.dropLargestGrant(now, err) {
			return err
		}
	}
}
