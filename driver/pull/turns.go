package pull

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
)

// Credentials tell those of one pull apart from those of another. They cannot be read back.
type Credentials [sha256.Size]byte

// CredentialsOf are a pull's; all empty: what the operator has configured.
func CredentialsOf(username, password, server string) Credentials {
	return sha256.Sum256(fmt.Appendf(nil, "%q %q %q", username, password, server))
}

// Turns makes pulls of one image with different credentials take turns. The wrapped driver knows pulls by the image's
// name alone: whoever asks for one that is being pulled gets its outcome, and so another's image, or another's refusal.
// Pulls with the same credentials are under way together. The zero value is ready for use.
type Turns struct {
	mu     sync.Mutex
	images map[string]*line
}

// line is who pulls an image, and who waits for that.
type line struct {
	with    Credentials // of those who pull
	pulling int         // not 0
	waiting []*waiter   // in the order in which they came
}

type waiter struct {
	with Credentials
	turn chan struct{} // closed when it has come
}

// Take waits for the turn to pull an image with these credentials, until ctx ends. When the pull is over release is to be
// called. Somebody who has to wait is asked whether the image is needed from the registry at all; if not, there is no turn to
// wait for.
func (t *Turns) Take(ctx context.Context, image string, with Credentials, needed func() bool) (release func(), err error) {
	release = sync.OnceFunc(func() { t.release(image) })
	if t.enter(image, with) {
		return release, nil
	}
	if !needed() {
		return func() {}, nil
	}
	w := t.wait(image, with)
	select {
	case <-w.turn:
		return release, nil
	case <-ctx.Done():
	}
	if !t.leave(image, w) { // its turn came meanwhile
		release()
	}
	return nil, fmt.Errorf("wait for another pull of %s: %w", image, ctx.Err())
}

// enter reports whether the turn is there already.
func (t *Turns) enter(image string, with Credentials) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.enterLocked(image, with)
}

func (t *Turns) enterLocked(image string, with Credentials) bool {
	l := t.images[image]
	if l == nil {
		if t.images == nil {
			t.images = map[string]*line{}
		}
		t.images[image] = &line{with: with, pulling: 1}
		return true
	}
	if l.with != with || len(l.waiting) > 0 { // who waits is not overtaken
		return false
	}
	l.pulling++
	return true
}

func (t *Turns) wait(image string, with Credentials) *waiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &waiter{with: with, turn: make(chan struct{})}
	if t.enterLocked(image, with) {
		close(w.turn)
	} else {
		l := t.images[image]
		l.waiting = append(l.waiting, w)
	}
	return w
}

// leave reports whether somebody still waited, who does not any more.
func (t *Turns) leave(image string, w *waiter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.images[image]
	if l == nil {
		return false
	}
	i := slices.Index(l.waiting, w)
	if i < 0 {
		return false
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	return true
}

// release ends one pull. After the last of them it is the turn of who waits longest, and of all who wait with the same
// credentials.
func (t *Turns) release(image string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.images[image]
	if l.pulling--; l.pulling > 0 {
		return
	}
	if len(l.waiting) == 0 {
		delete(t.images, image)
		return
	}
	l.with = l.waiting[0].with
	l.waiting = slices.DeleteFunc(l.waiting, func(w *waiter) bool {
		if w.with != l.with {
			return false
		}
		l.pulling++
		close(w.turn)
		return true
	})
}
