package poll

import (
	"context"
	"errors"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const (
	// waitTimeout bounds one wait of a provider's, which is to end by itself sooner.
	waitTimeout = 2 * time.Minute
	// betweenWaits is how far apart waits are sent at the least, whatever they answer.
	betweenWaits = time.Second
)

// Waiter is a provider that can wait for a change.
type Waiter interface {
	// Wait returns once what is at req is of another revision than since, or after a minute or so if it is not, and
	// says of which it is; at once if since is empty. Where nothing is there, it waits as well if it can: then its
	// answer is a revision, too; else an error of kind NotFound.
	Wait(ctx context.Context, tok secrets.Token, req secrets.Request, since string) (revision string, err error)
}

// errLeft is of a wait with the token of a subscriber that has cancelled meanwhile.
var errLeft = errors.New("the task that waits has ended")

// wait has the provider wait for another revision, with the token of one subscriber.
func (p *Poller) wait(path *polledPath, s *Subscription, tok secrets.Token) (revision string, err error) {
	ctx, cancel := context.WithTimeout(p.ctx, waitTimeout)
	defer cancel()
	p.mu.Lock()
	left, since := s.path == nil, path.revision
	path.asking, path.stopWait = s, cancel
	p.mu.Unlock()
	if !left {
		revision, err = path.waiter.Wait(ctx, tok, path.key.request(s.Task), since)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	path.asking, path.stopWait = nil, nil
	if left || err != nil && s.path == nil {
		return "", errLeft
	}
	return revision, err
}
