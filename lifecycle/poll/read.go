package poll

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// read asks the server what is at a path, with the token of one subscriber after the other until one
// is good for it: first of the payer's, whose turn it is. The digest is what the answer comes to; the error is
// that of the last one asked.
func (p *Poller) read(path *polledPath, payer limit.Tenant) (digest string, changes, sent time.Time, err error) {
	p.mu.Lock()
	due := path.next
	p.mu.Unlock()
	err = errors.New("no task that reads this path has a token now")
	sent = time.Now()
	turn := true // the payer's
	outages := 0 // that may be of who asked
	asked := map[*Subscription]bool{}
	for s := p.unasked(path, payer, asked); s != nil; s = p.unasked(path, payer, asked) {
		asked[s] = true
		tok, ok := s.Token()
		if !ok {
			continue
		}
		if !turn {
			if err := p.cfg.Limit.Background(p.ctx, s.Tenant, limit.Poll, due); err != nil {
				return "", changes, sent, err
			}
		}
		turn = false
		sent = time.Now()
		if path.waiter != nil {
			digest, err = p.wait(path, s, tok)
		} else {
			digest, changes, err = p.readWith(tok, path.key, s)
		}
		if errors.Is(err, errLeft) {
			continue
		}
		if secrets.IsOfAsker(err) {
			outages++
		}
		switch kind := secrets.KindOf(err); {
		case kind == secrets.Refused, kind == secrets.Gone, secrets.IsOfAsker(err) && outages < maxAskers:
			p.last(path, s)
			continue
		case kind == secrets.NotFound:
			digest, err = Absent, nil
		}
		if err == nil {
			p.good(s)
		}
		break
	}
	if err != nil && !errors.Is(err, errLeft) {
		p.cfg.Log.Debug("a poll failed", "path", path.key.Path, "error", err)
	}
	return digest, changes, sent, err
}

// unasked is whose turn is next: one of the payer's if there is one that was not asked. One that has joined meanwhile is among them.
func (p *Poller) unasked(path *polledPath, payer limit.Tenant, asked map[*Subscription]bool) (next *Subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range path.subs {
		switch {
		case asked[s]:
		case s.Tenant == payer:
			return s
		case next == nil:
			next = s
		}
	}
	return next
}

func (p *Poller) readWith(tok secrets.Token, key Key, s *Subscription) (digest string, changes time.Time, err error) {
	ctx, cancel := context.WithTimeout(limit.Own(limit.For(p.ctx, s.Tenant)), requestTimeout)
	defer cancel()
	digest, err = p.contained(key, func() (string, error) {
		answer, err := p.cfg.Read(ctx, tok, key.request(s.Task))
		switch {
		case err != nil:
			return "", err
		case answer.Kind != secrets.Static:
			// The mount was replaced by one of another type. Each further read might make a credential.
			p.cfg.Log.Warn("path no longer polled: it holds no static secret any more", "path", key.Path)
			return digestForeign, nil
		}
		changes = answer.Changes
		return p.cfg.Digest(answer.Fields), nil
	})
	return digest, changes, err
}

// last puts a subscription whose token was no good at the end, so that the next poll begins with
// another's.
func (p *Poller) last(path *polledPath, s *Subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.refused = true
	if i := slices.Index(path.subs, s); i >= 0 {
		path.subs = append(slices.Delete(path.subs, i, i+1), s)
	}
}

// good notes that a subscription's token may read its path.
func (p *Poller) good(s *Subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.refused = false
}
