package lifecycle

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// dropAfter is how often in a row a grant must be seen to be missing before its secret is taken from
// the task: a policy that is being rewritten is not applied half-way.
const dropAfter = 2

// policies is a session's from_policies (docs/policies.md, "The policies' secrets"). What the policies grant is found out when the
// task starts, and again every lease_check_interval, within the request rate:
//   - what they newly grant is fetched and applied like any change;
//   - what they grant no more, as two looks in a row have shown, is left out in the same way, and its
//     lease revoked;
//   - what they grant and cannot be seen (the engine is unmounted, a directory not to be listed any
//     more) stays as it is: nobody has said that the task must not have it;
//   - what they grant and does not fit (secrets.Fit) is left out, and so is what cannot be fetched. It does
//     nothing to the task: one that starts does so without it, and one that runs keeps what it has.
//
// The fields are the loop's.
type policies struct {
	from    Discoverer         // nil: off
	config  secrets.TaskConfig // the job's configuration and what was discovered
	next    time.Time          // when to look again
	busy    bool
	refused map[string]int // by secret: how often in a row its grant was missing

	// What is granted and the task does not have: for what its path and name are, because it cannot be fetched,
	// and because it does not fit, the latter two by secret.
	left       []secrets.Skipped
	failed     map[string]ungranted
	unfit      map[string]ungranted
	unset      []secrets.Skipped // variables left out of secrets that it has
	skippedKey string            // which of these the last event named
}

// refetchAfter is how long a credential that does not fit is not fetched again: each time makes one.
const refetchAfter = time.Hour

// HasIdentity reports whether a task has a token, or what gets one, of its own: a vault block's or an
// identity's. jwtFile is what the job says, or else empty.
func (c Config) HasIdentity(taskDir string, env map[string]string, jwtFile string) bool {
	for _, rel := range []string{vaultTokenFile, cmp.Or(jwtFile, c.JWTFile)} {
		if _, err := os.Lstat(filepath.Join(taskDir, rel)); rel != "" && err == nil {
			return true
		}
	}
	return env["VAULT_TOKEN"] != ""
}

// asksPolicies reports whether a task is to have what its policies grant.
func asksPolicies(c secrets.TaskConfig) bool { return c.FromPolicies != "" && c.FromPolicies != "off" }

// policiesOf is what a task's config says of them.
func (k *Keeper) policiesOf(c secrets.TaskConfig, id *identity) (policies, error) {
	if !asksPolicies(c) {
		return policies{}, nil
	}
	if id.source == journal.FromNodeFile {
		if c.ByOperator {
			return policies{}, nil
		}
		return policies{}, secrets.Errorf(secrets.Invalid, "from_policies needs an identity of the task's own, and only the node's token is there; %s", howToIdentify)
	}
	p, err := k.providers.named(secrets.DefaultProvider)
	if err != nil {
		return policies{}, err
	}
	if p.discovery == nil {
		return policies{}, secrets.Errorf(secrets.Invalid, "from_policies: this secrets server does not tell what policies grant; declare the secrets")
	}
	return policies{from: p.discovery, config: c, refused: map[string]int{}, failed: map[string]ungranted{}, unfit: map[string]ungranted{}}, nil
}

// discoverFirst finds what the task that starts is to have. Where only the operator says that it is to have
// anything, the task starts also if that cannot be found.
func (s *Session) discoverFirst(ctx context.Context) error {
	if s.policies.from == nil {
		return nil
	}
	err := s.retryUntil(ctx, "what its policies grant", func() error { return s.discover(ctx) })
	if err != nil && s.policies.config.ByOperator && onlyGrants(err) {
		s.emitOnce(keyPolicies, eventPolicies(err))
		s.policies.next = s.nextCheck(time.Now())
		return nil
	}
	return err
}

// onlyGrants reports whether err is the server's or its answer's, and not that nobody could ask.
func onlyGrants(err error) bool {
	kind := secrets.KindOf(err)
	return kind != 0 && kind != secrets.Outage
}

// discover finds what the task that starts is to have, and journals it, so that a recovery need not
// ask.
func (s *Session) discover(ctx context.Context) error {
	release, err := s.foreground(ctx, s.tokens.issuer.name)
	if err != nil {
		return secrets.Errorf(secrets.Outage, "from_policies: %w", err)
	}
	defer release()
	d, err := s.policies.from.Discover(ctx, s.tokens.current.tok, s.namespace, nil, nil)
	if err != nil {
		return fmt.Errorf("from_policies: %w", err)
	}
	config, spec, err := s.expand(d, nil)
	if err != nil {
		return err
	}
	if err := s.adopt(config, spec); err != nil {
		return err
	}
	if len(d.Found) == 0 {
		s.emitOnce(keyPolicies, eventNothingGranted())
	}
	s.policies.next = s.nextCheck(time.Now())
	return nil
}

// expand is what the task is to have by what was discovered; has is of what it has already.
func (s *Session) expand(d *secrets.Discovery, has func(string) bool) (secrets.TaskConfig, *secrets.Spec, error) {
	config, left := secrets.Expand(s.policies.config, d, has)
	spec, err := s.k.providers.compile(config)
	if err != nil {
		return config, nil, err
	}
	s.policies.left = slices.Concat(left, spec.Skipped)
	if d.Cut {
		s.emitOnce(keyCut, eventPoliciesCut())
	}
	return config, spec, nil
}

// has reports whether the task has a secret.
func (s *Session) has(name string) bool { return s.secrets[name] != nil }

// around is what the policies' secrets have to fit in with.
func (s *Session) around(has func(string) bool) secrets.Around {
	return secrets.Around{Env: s.ownEnv, Has: has, Fits: s.host.Fits, MaxEnv: secrets.MaxGrantedEnv, EnvRoom: max(s.host.EnvRoom(), 1)}
}

// render renders what the task is to have, with some of it replaced. That something which it has would have
// to be left out for that is an error: a value that does not fit takes nothing away.
func (s *Session) render(b *secrets.Budget, instead map[string]*secretState) (*secrets.Set, error) {
	fitted, err := b.Fit(s.spec, s.answers(instead), s.around(s.has))
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(fitted.Left)) {
		return nil, secrets.Errorf(secrets.Invalid, "secret %q: %s", name, fitted.Left[name])
	}
	return fitted.Set, nil
}

// adopt makes config what the task asks for. Secrets that the task has go on as they were fetched.
func (s *Session) adopt(config secrets.TaskConfig, spec *secrets.Spec) error {
	if err := s.journal.Update(func(e *journal.Entry) { e.Config = config }); err != nil {
		return fmt.Errorf("journal what the policies grant: %w", err)
	}
	s.policies.config, s.spec = config, spec
	s.shown.Store(spec)
	return nil
}

// stepPolicies looks whether the policies have changed.
func (s *Session) stepPolicies(now time.Time) (next time.Time) {
	p := &s.policies
	if p.from == nil || p.busy || s.tokens.lost() || s.phase.rotating() {
		return time.Time{} // what is under way wakes the loop
	}
	if !due(now, p.next) {
		return p.next
	}
	p.busy = true
	from, l, turn, at := p.from, s.tokens.current, s.background(limit.Poll, now), s.tokens.issuer.name
	var known []string
	for name, sec := range p.config.Secrets {
		if sec.Discovered && s.has(name) {
			known = append(known, sec.Path)
		}
	}
	s.do(func(ctx context.Context) func() {
		d, err := from.Discover(ctx, l.tok, s.namespace, known, func(ctx context.Context) error {
			_, err := turn(ctx, at)
			return err
		})
		return func() {
			p.busy = false
			p.next = s.nextCheck(time.Now())
			s.noteAnswer(s.tokens.issuer, err)
			s.discovered(time.Now(), l, d, err)
		}
	})
	return time.Time{}
}

func (s *Session) discovered(now time.Time, l *tokenState, d *secrets.Discovery, err error) {
	p := &s.policies
	if err != nil {
		s.noteError("", err)
	}
	switch {
	case s.phase.rotating(): // what it replaces is not to change under it
		p.next = now.Add(coalesce)
		return
	case s.retryable(err):
		p.next = earliest(p.next, now.Add(backoff(s.outageOf(s.tokens.issuer).fails+1, s.k.random())))
		return
	case secrets.KindOf(err) == secrets.Refused:
		s.askToken(limit.Rotate, func() { s.emitOnce(keyPolicies, eventPolicies(err)) })
		return
	}
	if err == nil {
		err = s.regrant(now, l, d)
	}
	if err != nil {
		s.emitOnce(keyPolicies, eventPolicies(err)) // the task keeps what it has
	}
}

// regrant compares what is granted with what the task has.
func (s *Session) regrant(now time.Time, l *tokenState, d *secrets.Discovery) error {
	p := &s.policies
	config, spec, err := s.expand(d, s.has)
	if err != nil {
		return err
	}
	kept := false
	for name, old := range p.config.Secrets {
		if !old.Discovered || s.secrets[name] == nil {
			continue
		}
		if sec := config.Secrets[name]; sec == nil || sec.Path != old.Path {
			config.Secrets[name] = old // until it is left out
			kept = true
			if !d.Granted[old.Path] {
				s.missing(now, name)
				continue
			}
		}
		delete(p.refused, name)
		s.cancelDrop(name)
	}
	if kept {
		if spec, err = s.k.providers.compile(config); err != nil {
			return err
		}
	}
	if !sameSecrets(p.config, config) {
		if err := s.adopt(config, spec); err != nil {
			return err
		}
	}
	var wanted []*secrets.Secret
	granted := map[string]bool{}
	for i := range s.spec.Secrets {
		sec := &s.spec.Secrets[i]
		granted[sec.Name] = sec.Granted
		if u, unfit := p.unfit[sec.Name]; sec.Granted && !s.has(sec.Name) && !(unfit && u.Path == sec.Request.Path && now.Before(u.next)) {
			wanted = append(wanted, sec)
		}
	}
	for _, of := range []map[string]ungranted{p.failed, p.unfit} {
		maps.DeleteFunc(of, func(name string, _ ungranted) bool { return !granted[name] })
	}
	if len(wanted) == 0 {
		s.emitSkipped()
		return nil
	}
	p.busy = true
	s.do(func(ctx context.Context) func() {
		got, failed := s.fetch(ctx, l, wanted, nil, s.background(limit.Rotate, now))
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
	s.addDrop(now, name)
}

// granted takes in secrets that the task has not had before. Those that fit are applied like any change.
func (s *Session) granted(now time.Time, got map[string]*secretState, failed map[string]error) {
	p := &s.policies
	fitted, err := secrets.Fit(s.spec, s.answers(got), s.around(s.has))
	var added []string
	for name, h := range got {
		delete(p.failed, name)
		why, left := fitted.Left[name]
		if err != nil {
			why, left = err.Error(), true
		}
		if left {
			s.unfit(now, h, why)
			continue
		}
		delete(p.unfit, name)
		added = append(added, name)
	}
	for _, name := range added {
		h := got[name]
		h.undelivered = true
		s.secrets[name] = h
		s.schedule(now, h)
		s.subscribeTo(name, h)
		s.addChange(now, name, because(CauseGranted), h, time.Time{})
		s.changes[name].added, s.changes[name].drop = true, false
	}
	if len(added) > 0 {
		p.unset = fitted.Unset
		if err := s.journalSecrets(); err != nil {
			s.logJournal("secrets that the policies newly grant", err) // their leases are in it; a recovery would revoke them
		}
	}
	for i := range s.spec.Secrets {
		if sec := &s.spec.Secrets[i]; failed[sec.Name] != nil {
			p.failed[sec.Name] = failedGrant(sec, failed[sec.Name])
		}
	}
	s.emitSkipped()
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
