package lifecycle

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// dropAfter is how often in a row a grant must be seen to be missing before its secret is taken from
// the task: a policy that is being written anew is not acted upon half-way.
const dropAfter = 2

// discoverer is a provider that can tell what a token's policies grant. Each of its requests waits
// for turn, unless that is nil.
type discoverer interface {
	Discover(ctx context.Context, tok secrets.Token, namespace string, turn func(context.Context) error) (*secrets.Discovery, error)
}

// policies is a session's from_policies (DESIGN 5). What the policies grant is found out when the
// task starts, and again every lease_check_interval, within the request rate:
//   - what they grant anew is fetched, and the task is told as of any change;
//   - what they grant no more, as two looks in a row have shown, is left out in the same way, and its
//     lease revoked;
//   - what they grant and cannot be seen (the engine is unmounted, a directory not to be listed any
//     more) stays as it is: nobody has said that the task must not have it.
//
// The fields are the loop's.
type policies struct {
	from    discoverer         // nil: off
	config  secrets.TaskConfig // the job's words and what was discovered
	next    time.Time          // when to look again
	busy    bool
	refused map[string]int // by secret: how often in a row its grant was missing
}

// HasIdentity reports whether a task has a token, or what gets one, of its own: a vault block's or an
// identity's. jwtFile is what the job says, or else empty.
func (k *Keeper) HasIdentity(taskDir string, env map[string]string, jwtFile string) bool {
	for _, rel := range []string{vaultTokenFile, firstOf(jwtFile, k.cfg.JWTFile)} {
		if _, err := os.Lstat(filepath.Join(taskDir, rel)); rel != "" && err == nil {
			return true
		}
	}
	return env["VAULT_TOKEN"] != ""
}

// policiesOf is what a task's config says of them.
func (k *Keeper) policiesOf(c secrets.TaskConfig, id *identity) (policies, error) {
	if c.FromPolicies == "" || c.FromPolicies == "off" {
		return policies{}, nil
	}
	if id.source == fromNodeFile {
		return policies{}, secrets.Errorf(secrets.Invalid, "from_policies needs an identity of the task's own, and only the node's token is there; %s", howToIdentify)
	}
	from, ok := k.cfg.Provider.(discoverer)
	if !ok {
		return policies{}, secrets.Errorf(secrets.Invalid, "from_policies: this secrets server does not tell what policies grant; declare the secrets")
	}
	return policies{from: from, config: c, refused: map[string]int{}}, nil
}

// discover finds what the task that starts is to have, and journals it, so that a recovery need not
// ask.
func (s *Session) discover(ctx context.Context) error {
	release, err := s.k.limit.foreground(ctx)
	if err != nil {
		return secrets.Errorf(secrets.Outage, "from_policies: %w", err)
	}
	defer release()
	d, err := s.policies.from.Discover(ctx, s.login.tok, s.namespace, nil)
	if err != nil {
		return fmt.Errorf("from_policies: %w", err)
	}
	config, events, err := secrets.Expand(s.policies.config, d)
	if err != nil {
		return err
	}
	spec, err := secrets.Compile(config)
	if err != nil {
		return fmt.Errorf("from_policies: %w", err)
	}
	if err := s.adopt(config, spec); err != nil {
		return err
	}
	for _, e := range events {
		s.sayOnce(aboutGrant(e), e)
	}
	if len(d.Found) == 0 {
		s.sayOnce(aboutPolicies, sayNothingGranted())
	}
	s.policies.next = s.nextCheck(time.Now())
	return nil
}

// adopt makes config what the task asks for. Secrets that are held go on as they were fetched.
func (s *Session) adopt(config secrets.TaskConfig, spec *secrets.Spec) error {
	if err := s.journal.update(func(e *entry) { e.Config = config }); err != nil {
		return fmt.Errorf("journal what the policies grant: %w", err)
	}
	s.policies.config, s.spec = config, spec
	s.shown.Store(spec)
	return nil
}

// stepPolicies looks whether the policies have changed.
func (s *Session) stepPolicies(now time.Time) (next time.Time) {
	p := &s.policies
	if p.from == nil || p.busy || s.login.dead || s.rotation != nil {
		return time.Time{} // what is under way wakes the loop
	}
	if !due(now, p.next) {
		return p.next
	}
	p.busy = true
	from, l, turn := p.from, s.login, s.background(toLook, now)
	s.do(func(ctx context.Context) func() {
		d, err := from.Discover(ctx, l.tok, s.namespace, func(ctx context.Context) error {
			_, err := turn(ctx)
			return err
		})
		return func() {
			p.busy = false
			p.next = s.nextCheck(time.Now())
			s.heard(err)
			s.discovered(time.Now(), l, d, err)
		}
	})
	return time.Time{}
}

func (s *Session) discovered(now time.Time, l *login, d *secrets.Discovery, err error) {
	p := &s.policies
	switch {
	case s.rotation != nil: // what it replaces is not to change under it
		p.next = now.Add(coalesce)
		return
	case s.waitable(err):
		p.next = earliest(p.next, now.Add(retryIn(s.outage.fails+1, s.k.random())))
		return
	case secrets.KindOf(err) == secrets.Refused:
		s.askToken(toAct, func() { s.sayOnce(aboutPolicies, sayPolicies(err)) })
		return
	}
	if err == nil {
		err = s.regrant(now, l, d)
	}
	if err != nil {
		s.sayOnce(aboutPolicies, sayPolicies(err)) // the task keeps what it has
	}
}

// regrant compares what is granted with what the task has.
func (s *Session) regrant(now time.Time, l *login, d *secrets.Discovery) error {
	p := &s.policies
	config, events, err := secrets.Expand(p.config, d)
	if err != nil {
		return err
	}
	for name, old := range p.config.Secrets {
		if !old.Discovered || s.held[name] == nil {
			continue
		}
		if sec := config.Secrets[name]; sec == nil || sec.Path != old.Path {
			config.Secrets[name] = old // until it is left out
			if !d.Grants(old.Path) {
				s.missing(now, name)
				continue
			}
		}
		delete(p.refused, name)
		if c := s.changes[name]; c != nil && c.drop {
			delete(s.changes, name)
		}
	}
	spec, err := secrets.Compile(config)
	if err != nil {
		return err
	}
	if !sameSecrets(p.config, config) {
		if err := s.adopt(config, spec); err != nil {
			return err
		}
	}
	for _, e := range events {
		s.sayOnce(aboutGrant(e), e)
	}
	var wanted []*secrets.Secret
	for i := range s.spec.Secrets {
		if sec := &s.spec.Secrets[i]; sec.Granted && s.held[sec.Name] == nil {
			wanted = append(wanted, sec)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	p.busy = true
	s.do(func(ctx context.Context) func() {
		got, failed := s.fetch(ctx, l, wanted, s.background(toAct, now))
		return func() {
			p.busy = false
			s.granted(time.Now(), got, failed)
		}
	})
	return nil
}

// missing notes that a grant was not there, and has the secret left out when it was not there before
// either.
func (s *Session) missing(now time.Time, name string) {
	p := &s.policies
	p.refused[name]++
	if p.refused[name] < dropAfter {
		return
	}
	s.addChange(now, name, "the policies do not grant it any more", nil, time.Time{})
	s.changes[name].drop = true
}

// granted takes in secrets that the task has not had before. It is told of them as of any change.
func (s *Session) granted(now time.Time, got map[string]*held, failed map[string]error) {
	for name, h := range got {
		h.untold = true
		s.held[name] = h
		s.schedule(now, h)
		s.subscribeTo(name, h)
		s.addChange(now, name, "", h, time.Time{})
		s.changes[name].added = true
	}
	if len(got) > 0 {
		if err := s.journalHeld(s.nowAt()); err != nil {
			s.log.Error("journal", "error", err) // their leases are in it; a recovery would revoke them
		}
	}
	for name, err := range failed {
		if s.waitable(err) || secrets.KindOf(err) == secrets.NotFound {
			continue // looked at again with the policies
		}
		s.sayOnce(aboutSecret(name), sayNotAdded(name, err))
	}
}

func sameSecrets(a, b secrets.TaskConfig) bool {
	if len(a.Secrets) != len(b.Secrets) {
		return false
	}
	for name, s := range a.Secrets {
		if o := b.Secrets[name]; o == nil || o.Path != s.Path {
			return false
		}
	}
	return true
}
