package lifecycle

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// grantWait is how long a start waits for what the policies grant, while the server itself answers.
const grantWait = 10 * time.Second

// grants is what the policies grant to a task that starts, on its way to it. The job has asked for none of it
// by name, so it keeps no task from starting: a secret that is refused, or whose engine does not answer, is
// left out, and added later when the policies are looked at again. Only when the server itself is away does the
// start wait, as for what is declared (S2): then it is not known what would be missing.
type grants struct {
	s       *Session
	l       *tokenState
	until   time.Time                  // from when on it is not waited for
	answers chan grantAnswer           // has room for all
	waiting map[string]*secrets.Secret // that have not answered, by name
	failed  map[string]grantAnswer
	room    *fetched // what has come takes of it until it is journalled
	rest    bool     // some is taken in by the loop
}

type grantAnswer struct {
	sec *secrets.Secret
	got *secretState
	err error
}

// requestGrants asks for all that the policies grant, at once.
func (s *Session) requestGrants() *grants {
	g := &grants{s: s, l: s.tokens.current, waiting: map[string]*secrets.Secret{}, failed: map[string]grantAnswer{}, room: s.k.memory.open()}
	var wanted []*secrets.Secret
	for i := range s.spec.Secrets {
		if sec := &s.spec.Secrets[i]; sec.Granted {
			wanted = append(wanted, sec)
		}
	}
	g.answers = make(chan grantAnswer, len(wanted))
	g.request(wanted)
	return g
}

// request asks for secrets. The requests are the session's: the end of the start does not cut them off, for
// what they make is to be known of.
func (g *grants) request(wanted []*secrets.Secret) {
	s, l := g.s, g.l
	until := time.Now().Add(min(grantWait, s.k.cfg.StartTimeout/2))
	g.until = until
	for _, sec := range wanted {
		g.waiting[sec.Name] = sec
		s.work.Go(func() {
			for n := 1; ; n++ {
				h, err := s.fetchOne(s.watch, l, sec, nil, s.foreground, g.room)
				pause := backoff(n, s.k.random())
				if err == nil || !s.tokens.identity.retryable(l, err) || time.Now().Add(pause).After(until) {
					g.answers <- grantAnswer{sec, h, err}
					return
				}
				wait(s.watch, pause)
			}
		})
	}
}

// await takes in what comes in time. Its error is that the server was away until ctx ended.
func (g *grants) await(ctx context.Context) error {
	for {
		g.collect(ctx)
		if len(g.missing()) == 0 || secrets.KindOf(g.s.serverAnswers(ctx)) != secrets.Outage {
			return nil
		}
		err := g.s.retryUntil(ctx, "what its policies grant", func() error {
			if err := g.s.serverAnswers(ctx); secrets.KindOf(err) == secrets.Outage {
				return err
			}
			return nil
		})
		if err != nil {
			return err
		}
		var again []*secrets.Secret
		for _, name := range slices.Sorted(maps.Keys(g.failed)) {
			if a := g.failed[name]; secrets.KindOf(a.err) == secrets.Outage {
				again = append(again, a.sec)
				delete(g.failed, name)
			}
		}
		g.request(again)
	}
}

// collect waits for answers as long as it is worth it.
func (g *grants) collect(ctx context.Context) {
	timer := time.NewTimer(time.Until(g.until))
	defer timer.Stop()
	for len(g.waiting) > 0 {
		select { // what is there counts, even if the time is over
		case a := <-g.answers:
			g.take(a)
			continue
		default:
		}
		select {
		case a := <-g.answers:
			g.take(a)
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (g *grants) take(a grantAnswer) {
	name := a.sec.Name
	delete(g.waiting, name)
	if a.err != nil {
		g.failed[name] = a
		g.s.policies.failed[name] = failedGrant(a.sec, a.err)
		return
	}
	delete(g.s.policies.failed, name)
	g.s.secrets[name] = a.got
}

// missing are the names of those for which waiting may help.
func (g *grants) missing() []string {
	names := slices.Collect(maps.Keys(g.waiting))
	for name, a := range g.failed {
		if secrets.KindOf(a.err) == secrets.Outage {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// explain makes an error of what the job declares an outage, if something may be missing only for the moment
// that one of its templates needs.
func (g *grants) explain(err error) error {
	if missing := g.missing(); len(missing) > 0 {
		return secrets.Errorf(secrets.Outage, "%w (not there yet of what the policies grant: %s)", err, strings.Join(missing[:min(len(missing), 20)], ", "))
	}
	return err
}

// awaitRest has the loop take in what has not answered yet, when it does.
func (g *grants) awaitRest() {
	s, p := g.s, &g.s.policies
	if len(g.waiting) == 0 {
		return
	}
	g.rest, p.busy = true, true // no look asks for the same meanwhile
	n := len(g.waiting)
	s.work.Go(func() {
		got, failed := map[string]*secretState{}, map[string]error{}
		for range n {
			a := <-g.answers // each comes: its request has a timeout, and ends with the session
			if a.err != nil {
				failed[a.sec.Name] = a.err
			} else {
				got[a.sec.Name] = a.got
			}
		}
		s.deliver(func() {
			p.busy = false
			s.granted(time.Now(), got, failed)
			g.room.close()
		})
		if s.watch.Err() != nil { // then nobody takes it in
			g.room.close()
		}
	})
}

// close ends the start's part in it.
func (g *grants) close() {
	if !g.rest {
		g.room.close()
	}
}

// serverAnswers asks the server for what only itself answers. An error that is no outage is an answer.
func (s *Session) serverAnswers(ctx context.Context) error {
	release, err := s.foreground(ctx, s.tokens.issuer.name)
	if err != nil {
		return secrets.Errorf(secrets.Outage, "%w", err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(ctx, grantWait)
	defer cancel()
	_, err = s.tokens.issuer.tokens.LookupToken(ctx, s.tokens.current.tok, s.namespace)
	return err
}
