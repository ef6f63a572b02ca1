package poll

import (
	"context"
	"errors"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/contain"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const (
	// longestWait is how long a wait is to take without a change. A provider may add a little: so that a right that was taken
	// away is noticed within a minute, when the next wait begins.
	longestWait = 55 * time.Second
	// waitTimeout bounds one wait of a provider's, which is to end by itself sooner.
	waitTimeout = 2 * time.Minute
	// betweenWaits is how far apart waits are sent at the least, whatever they answer.
	betweenWaits = time.Second
)

// Waiter is a provider that can wait for a change.
type Waiter interface {
	// Wait returns once what is at req is of another revision than since, or after atMost or a little more if it is not, and
	// says of which it is; at once if since is empty. Where nothing is there, it waits as well if it can: then its
	// answer is a revision, too; else an error of kind NotFound.
	Wait(ctx context.Context, tok secrets.Token, req secrets.Request, since string, atMost time.Duration) (revision string, err error)
}

// errLeft is of a wait that was ended here: the subscriber with whose token it was sent has cancelled, or one has come for
// whom it takes too long.
var errLeft = errors.New("the wait was ended")

// wait has the provider wait for another revision, with the token of one subscriber.
func (p *Poller) wait(path *polledPath, s *Subscription, tok secrets.Token) (revision string, err error) {
	ctx, cancel := context.WithTimeout(p.ctx, waitTimeout)
	defer cancel()
	p.mu.Lock()
	left, since, atMost := s.path == nil, path.revision, path.longestWaitLocked()
	path.asking, path.stopWait, path.waitsFor = s, cancel, atMost
	p.mu.Unlock()
	if !left {
		revision, err = p.contained(path.key, func() (string, error) {
			return path.waiter.Wait(ctx, tok, path.key.request(s.Task), since, atMost)
		})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	path.asking, path.stopWait = nil, nil
	if left || err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return "", errLeft
	}
	return revision, err
}

// contained is one path's request: a panic in it is not the other polls' matter.
func (p *Poller) contained(key Key, request func() (string, error)) (answer string, err error) {
	defer func() {
		if failed := contain.Of(recover()); failed != nil {
			p.cfg.Log.Error("a poll failed because of an error in this plugin; please report it", "path", key.Path, "error", failed, "stack", failed.Stack)
			err = failed
		}
	}()
	return request()
}

// longestWaitLocked is how long a path's next wait may take: what is in a live directory has been looked at lately, and after a
// failure it only finds out whether the server is back.
func (path *polledPath) longestWaitLocked() time.Duration {
	if path.failures > 0 {
		return betweenWaits
	}
	longest, _ := path.intervalLocked(longestWait, time.Now())
	return longest
}

// shortenLocked ends a wait that is under way, and takes longer than one that comes may wait.
func (path *polledPath) shortenLocked(looks *Looks) {
	if looks != nil && path.asking != nil && looks.Every < path.waitsFor {
		path.stopWait()
	}
}
