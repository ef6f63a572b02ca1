package lifecycle

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/steps"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Start is what a session begins with.
type Start struct {
	Task   Task
	Spec   *secrets.Spec
	Config secrets.TaskConfig // what Spec was compiled from; journalled, and compiled again at recovery
	Env    map[string]string  // the task's environment as Nomad gave it: VAULT_TOKEN, VAULT_NAMESPACE
	Driver json.RawMessage    // the driver's own notes, journalled with the intent
}

// Open journals the intent, gets a token, fetches and renders all of a task's secrets. It waits
// out an outage until Config.StartTimeout, then returns an error of kind secrets.Outage; one that ctx is cancelled with
// (its cause) is named. On error nothing is left: no lease, no token, no journal; what must be revoked for that is pending
// by then.
//
// From its return on leases and tokens are renewed (S9). Deliver has what the program is to begin with, and Watch is to be
// called once it runs.
func (k *Keeper) Open(ctx context.Context, st Start, h Host) (*Session, error) {
	o := &opening{k: k, Start: st, s: k.newSession(st.Task, st.Spec, h)}
	err := steps.Run(ctx,
		steps.Step{Do: o.endEarlier},
		steps.Step{Do: o.identify},
		// The end of the session is also the undo of what follows: it revokes what the journal says was made.
		steps.Step{Do: o.journalIntent, Undo: o.end},
		steps.Step{Do: o.s.begin},
	)
	if err != nil {
		return nil, err
	}
	o.s.keepAlive()
	return o.s, nil
}

// opening is a session's start, while it is under way.
type opening struct {
	k *Keeper
	Start
	s *Session
}

func (o *opening) endEarlier(context.Context) error {
	if err := o.k.Abandon(o.Task); err != nil && !errors.Is(err, ErrNoJournal) {
		return fmt.Errorf("end what an earlier start left: %w", err)
	}
	return nil
}

// identify finds out whose rights the task reads with, if any of its providers asks, and whether its policies are asked
// for.
func (o *opening) identify(context.Context) (err error) {
	s := o.s
	if s.tokens.issuer, err = o.k.providers.issuerFor(o.Spec, o.Config); err != nil || s.tokens.issuer == nil {
		return err
	}
	s.namespace = cmp.Or(o.Spec.Namespace, o.Env["VAULT_NAMESPACE"], o.k.cfg.Namespace)
	if s.tokens.identity, err = o.k.identify(o.Start, s.tokens.issuer, s.namespace); err != nil {
		return err
	}
	if s.policies, err = o.k.policiesOf(o.Config, s.tokens.identity); err != nil {
		return err
	}
	if s.policies.from != nil {
		s.ownEnv = slices.Sorted(maps.Keys(o.Env))
	}
	return nil
}

func (o *opening) journalIntent(context.Context) error {
	s := o.s
	intent := journal.Entry{Task: o.Task, Step: journal.StepStarting, Config: o.Config, Driver: o.Driver, OwnEnv: s.ownEnv}
	if p := s.tokens.issuer; p != nil {
		id := s.tokens.identity
		intent.TokenProvider, intent.TokenSource, intent.Namespace, intent.Role = p.name, id.source, s.namespace, id.role
	}
	err := o.k.room.start(2*len(o.Driver), func() (err error) {
		s.journal, err = journal.Create(o.k.cfg.StateDir, intent)
		return err
	})
	if err != nil {
		return err
	}
	if err := o.k.add(s); err != nil {
		return errors.Join(err, s.journal.Remove())
	}
	crashpoint.Reached(crashpoint.IntentJournalled, o.Task.Name)
	return nil
}

func (o *opening) end() error {
	o.s.End()
	return nil
}
