package volumes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
)

// volume is one volume. op is held for the length of an operation on it; mu guards the fields that others look at.
type volume struct {
	savedVolume
	d      *Driver
	dir    string // its name at the feeder
	target string // the directory that Docker is told

	op sync.Mutex

	mu     sync.Mutex // guards the rest, and Mounts
	source *source    // nil: not served
}

func (d *Driver) newVolume(s savedVolume) *volume {
	sum := sha256.Sum256([]byte(s.Name))
	dir := "v-" + hex.EncodeToString(sum[:10])
	if s.Mounts == nil {
		s.Mounts = map[string]time.Time{}
	}
	return &volume{savedVolume: s, d: d, dir: dir, target: filepath.Join(d.targets, dir)}
}

// serve makes the volume's directory be there, with values no older than they may be. op is held. What it has begun is undone
// if it fails.
func (v *volume) serve(ctx context.Context, mustBeFresh bool) (err error) {
	if v.served() == nil {
		s := v.d.attach(v)
		v.setSource(s)
		defer func() {
			if err != nil {
				v.unserve(ctx)
			}
		}()
	}
	s := v.served()
	source, err := v.d.feeder.Declare(ctx, live.Directory{
		Name: v.dir, UID: v.Options.UID, GID: v.Options.GID, Mode: v.Options.Mode, Stale: v.Options.Stale, Listing: v.Options.Listing,
	})
	if err != nil {
		return err
	}
	if mustBeFresh {
		fields, looked, err := s.recent(ctx, v.Options.Stale)
		if err != nil {
			return err
		}
		if err := v.d.feeder.Set(ctx, v.dir, fields, looked); err != nil {
			return err
		}
	} else {
		s.want()
	}
	if err := os.MkdirAll(v.target, 0o700); err != nil {
		return err
	}
	return live.Place(source, v.target)
}

// recent gives values for a mount: read now, or the last ones if the secrets server is away and they are not stale.
func (s *source) recent(ctx context.Context, stale time.Duration) ([]live.Field, time.Time, error) {
	at := time.Now()
	fields, digest, err := s.d.fetch(ctx, s.req)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if !s.looked.IsZero() && time.Since(s.looked) < stale {
			return s.fields, s.looked, nil
		}
		return nil, at, err
	}
	switch {
	case s.looked.IsZero(): // this volume is the first to have it
		s.fields, s.digest, s.looked = fields, digest, at
	case digest == s.digest:
		s.looked = at
	default:
		s.want() // the other volumes get it, too
	}
	return fields, at, nil
}

// unserve takes the directory away. op is held.
func (v *volume) unserve(ctx context.Context) {
	if s := v.served(); s != nil {
		v.setSource(nil)
		v.d.detach(v, s)
	}
	if err := live.Clear(v.target); err != nil {
		v.d.log.Error("a volume's directory stays mounted", "volume", v.Name, "error", err)
		return
	}
	if err := v.d.feeder.Withdraw(ctx, v.dir); err != nil {
		v.d.log.Warn("the file server keeps a volume's directory", "volume", v.Name, "error", err)
	}
	_ = os.Remove(v.target)
}

// feed gives the file server what a look has found.
func (v *volume) feed(ctx context.Context, fields []live.Field, at time.Time, changed bool) error {
	if !changed {
		err := v.d.feeder.Fresh(ctx, v.dir, at)
		if err == nil || ctx.Err() != nil {
			return err
		}
		// This process has not set it yet: it was restarted.
	}
	return v.d.feeder.Set(ctx, v.dir, fields, at)
}

func (v *volume) served() *source {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.source
}

func (v *volume) setSource(s *source) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.source = s
}

func (v *volume) mounted(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.Mounts[id] = time.Now().UTC()
}

// unmounted gives how many mounts Docker has besides.
func (v *volume) unmounted(id string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.Mounts, id)
	return len(v.Mounts)
}

// forgetMounts forgets those that are older than a while.
func (v *volume) forgetMounts(older time.Duration) (left int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.DeleteFunc(v.Mounts, func(_ string, at time.Time) bool { return time.Since(at) > older })
	return len(v.Mounts)
}

func (v *volume) save() *savedVolume {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.savedVolume
	s.Mounts = maps.Clone(v.Mounts)
	return &s
}

// sameAs is for a Create of a volume that is there.
func (v *volume) sameAs(o Options) error {
	if v.Options != o {
		return fmt.Errorf("volume %s is there already, with other options: remove it first", v.Name)
	}
	return nil
}

// inUse is an error that says by how many a volume is used: containers have mounts of it, or are about to.
func (v *volume) inUse() error {
	users, err := live.Users(v.target)
	if err != nil {
		return fmt.Errorf("who uses volume %s: %w", v.Name, err)
	}
	if users > 0 {
		return fmt.Errorf("volume %s is in use: it is mounted in %d places", v.Name, users)
	}
	return nil
}

func sortedVolumes(m map[string]*volume) []*volume {
	var list []*volume
	for _, name := range slices.Sorted(maps.Keys(m)) {
		list = append(list, m[name])
	}
	return list
}
