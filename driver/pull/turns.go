package pull

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"time"
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

// Pull is one pull of an image.
type Pull struct {
	Image string
	With  Credentials
	// Needed reports whether the image is needed from the registry at all. Only a pull that would have to wait is asked; if not,
	// there is no turn to wait for.
	Needed func() bool
	// Over reports whether the pull, whose turn it is, has come to its end although it was not released: what comes after it may
	// take for ever. It is asked only while somebody waits.
	Over func(context.Context) bool
}

// line is who pulls an image, and who waits for that.
type line struct {
	pulling []*place // with the same credentials; at least one
	waiting []*place // in the order in which they came
}

type place struct {
	Pull
	turn chan struct{} // closed when it has come
}

// askEvery is how often those that pull are asked whether they still do.
const askEvery = time.Second

// Take waits for the turn to pull an image, until ctx ends. When the pull is over release is to be called.
func (t *Turns) Take(ctx context.Context, pull Pull) (release func(), err error) {
	p := &place{Pull: pull, turn: make(chan struct{})}
	release = func() { t.leave(p) }
	if t.enter(p, false) {
		return release, nil
	}
	if !pull.Needed() {
		return func() {}, nil
	}
	t.enter(p, true)
	ask := time.NewTicker(askEvery)
	defer ask.Stop()
	for {
		select {
		case <-p.turn:
			return release, nil
		case <-ask.C:
			for _, other := range t.before(p) {
				if other.Over(ctx) {
					t.leave(other)
				}
			}
		case <-ctx.Done():
			release()
			return nil, fmt.Errorf("wait for another pull of %s: %w", pull.Image, ctx.Err())
		}
	}
}

// enter reports whether the turn is there already. If not, who waits is put at the end of the line.
func (t *Turns) enter(p *place, waits bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.images[p.Image]
	if l == nil {
		if t.images == nil {
			t.images = map[string]*line{}
		}
		l = &line{}
		t.images[p.Image] = l
	}
	switch {
	case len(l.pulling) == 0, l.pulling[0].With == p.With && len(l.waiting) == 0: // who waits is not overtaken
		l.pulling = append(l.pulling, p)
		close(p.turn)
		return true
	case waits:
		l.waiting = append(l.waiting, p)
	}
	return false
}

// before are those that pull while p is the first to wait. The others need not ask, too.
func (t *Turns) before(p *place) []*place {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.images[p.Image]
	if l == nil || len(l.waiting) == 0 || l.waiting[0] != p {
		return nil
	}
	return slices.Clone(l.pulling)
}

// leave ends a pull, or a wait for one. After the last of those that pull it is the turn of who waits longest, and of all who
// wait with the same credentials. Who has left already leaves nothing.
func (t *Turns) leave(p *place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.images[p.Image]
	if l == nil {
		return
	}
	itself := func(other *place) bool { return other == p }
	l.pulling, l.waiting = slices.DeleteFunc(l.pulling, itself), slices.DeleteFunc(l.waiting, itself)
	if len(l.pulling) > 0 {
		return
	}
	if len(l.waiting) == 0 {
		delete(t.images, p.Image)
		return
	}
	with := l.waiting[0].With
	l.waiting = slices.DeleteFunc(l.waiting, func(w *place) bool {
		if w.With != with {
			return false
		}
		l.pulling = append(l.pulling, w)
		close(w.turn)
		return true
	})
}
