package volumes

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
)

const (
	// pollEvery is how often a secret is looked at that is being read, and idleEvery how often one that is not: so a last
	// value is never much older than an outage.
	pollEvery = time.Second
	idleEvery = time.Minute
	// readAgo is how long after its last read a secret is still being read.
	readAgo = 3 * time.Second

	readTimeout = 10 * time.Second
)

// source is one secret, and the one poll of it for all volumes that have it.
type source struct {
	d   *Driver
	req secrets.Request

	wake   chan struct{} // somebody waits, or has begun to read
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex // guards the rest
	volumes map[*volume]bool
	read    time.Time // when somebody last read
	last    found
	failed  string // the last look's error, which was logged
}

// found is what the secret had.
type found struct {
	fields []live.Field
	digest [sha256.Size]byte
	at     time.Time // when the secrets server was asked; zero: never
}

// newSource is for a secret that was just read, or is wanted at once.
func (d *Driver) newSource(req secrets.Request) *source {
	ctx, cancel := context.WithCancel(d.ctx)
	s := &source{d: d, req: req, wake: make(chan struct{}, 1), cancel: cancel, ended: make(chan struct{}), volumes: map[*volume]bool{}}
	go s.run(ctx)
	return s
}

// run looks at the secret as often as it is read.
func (s *source) run(ctx context.Context) {
	defer close(s.ended)
	timer := time.NewTimer(idleEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.wake:
		}
		if s.d.limit.Wait(ctx) != nil {
			return
		}
		begin := time.Now()
		s.look(ctx)
		timer.Reset(max(0, s.interval()-time.Since(begin)))
	}
}

func (s *source) interval() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.read) < readAgo {
		return pollEvery
	}
	every := idleEvery
	for v := range s.volumes {
		every = min(every, v.Options.Stale/3)
	}
	return every
}

// isRead notes that somebody reads. The first time after a pause the next look is not waited for.
func (s *source) isRead() {
	s.mu.Lock()
	idle := time.Since(s.read) > readAgo
	s.read = time.Now()
	s.mu.Unlock()
	if idle {
		s.want()
	}
}

func (s *source) want() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// look reads the secret and gives it to all volumes.
func (s *source) look(ctx context.Context) {
	at := time.Now()
	fields, digest, err := s.d.fetch(ctx, s.req)
	if ctx.Err() != nil {
		return
	}
	if err != nil && secrets.KindOf(err) != secrets.NotFound {
		s.logChanged(err)
		for _, v := range s.served() {
			s.d.feeder.Failed(v.dir)
		}
		return
	}
	s.logChanged(err) // what is not there any more is no file

	s.note(found{fields, digest, at})
	for _, v := range s.served() {
		if v.feed(ctx) != nil {
			s.d.feeder.Failed(v.dir) // nobody is to wait
		}
	}
}

// lookFor looks at the secret for a mount. If the secrets server is away, what was last seen does, unless it is stale.
func (s *source) lookFor(ctx context.Context, stale time.Duration) error {
	at := time.Now()
	fields, digest, err := s.d.fetch(ctx, s.req)
	if err != nil {
		if last := s.seen(); !last.at.IsZero() && time.Since(last.at) < stale {
			return nil
		}
		return err
	}
	if s.note(found{fields, digest, at}) {
		s.want() // the other volumes get it, too
	}
	return nil
}

// note keeps what a look found, and reports whether that is another content than before. Looks may overlap: the one that was
// begun last counts, also if an earlier one ends after it.
func (s *source) note(f found) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.at.Before(s.last.at) {
		return false
	}
	changed = !s.last.at.IsZero() && f.digest != s.last.digest
	s.last = f
	return changed
}

func (s *source) seen() found {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// logChanged logs an error when it is another one than the last.
func (s *source) logChanged(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	s.mu.Lock()
	before := s.failed
	s.failed = text
	s.mu.Unlock()
	switch {
	case text == before:
	case text == "":
		s.d.log.Info("a secret of volumes can be read again", "path", s.req.Path)
	default:
		s.d.log.Warn("a secret of volumes cannot be read: its last values are served until they are stale", "path", s.req.Path, "error", err)
	}
}

func (s *source) served() []*volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.volumes))
}

// fetch reads a secret with the driver's token. Nothing is given that a read would make anew each time.
func (d *Driver) fetch(ctx context.Context, req secrets.Request) (fields []live.Field, digest [sha256.Size]byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	tok, err := d.token.get(ctx)
	if err != nil {
		return nil, digest, fmt.Errorf("the volume driver has no token: %w", err)
	}
	answer, err := d.server.Read(ctx, tok, req)
	if err != nil {
		if secrets.KindOf(err) == secrets.Refused {
			d.token.doubt()
		}
		return nil, digest, err
	}
	if answer.Kind != secrets.Static {
		if answer.Lease.ID != "" {
			if err := d.server.Revoke(ctx, tok, req.Namespace, answer.Lease.ID); err != nil {
				d.log.Warn("the lease of a credential that nobody gets was not revoked", "lease", answer.Lease.ID, "error", err)
			}
		}
		return nil, digest, secrets.Errorf(secrets.Invalid, "%s: each read makes another one: a volume serves what is stored, as in a KV engine (a Nomad task can have it with live_dir)", req.Path)
	}
	files, err := live.Flatten(answer.Fields)
	if err != nil {
		d.log.Warn("some fields of a secret cannot be files in a volume", "path", req.Path, "error", err)
	}
	return files, answer.Fields.Digest(d.key), nil
}
