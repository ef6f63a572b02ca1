package volumes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
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

	op     sync.Mutex
	unused bool // the last sweep found that nobody uses it; op guards it

	feeding sync.Mutex         // held while the file server is given values; guards the next two
	fed     *[sha256.Size]byte // digest of what it took last; nil: not known
	refused bool               // it did not take what it was given last, which was logged

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

// serve makes the volume's directory be there. Its values are read now, or mustBeFresh is false: then a look at the secret is
// begun. op is held. Where it fails, nothing is taken away from containers that have the volume: serve can be called again.
func (v *volume) serve(ctx context.Context, mustBeFresh bool) error {
	source, err := v.d.feeder.Declare(ctx, live.Directory{
		Name: v.dir, UID: v.Options.UID, GID: v.Options.GID, Mode: v.Options.Mode, Stale: v.Options.Stale, Listing: v.Options.Listing,
	})
	if err != nil {
		return err
	}
	s := v.served()
	if s == nil {
		s = v.attach()
	}
	if mustBeFresh {
		if err := s.lookFor(ctx, v.Options.Stale); err != nil {
			return err
		}
		if err := v.feed(ctx); err != nil {
			return err
		}
	} else {
		s.want()
	}
	// A file server that died may be mounted there: MkdirAll would look, and fail.
	if err := os.Mkdir(v.target, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return live.Place(source, v.target)
}

// serveInUse serves a volume that containers have, if it is not served, or not placed. op is held.
func (v *volume) serveInUse() error {
	ctx, cancel := context.WithTimeout(v.d.ctx, opTimeout)
	defer cancel()
	if v.served() != nil {
		return v.placeAgain(ctx)
	}
	// The file server mostly has the last values. What was mounted is not unmounted first: a container would not see the new mount.
	return v.serve(ctx, false)
}

// attach gives the volume its source. What the file server has of it is not known: an earlier driver may have given it.
func (v *volume) attach() *source {
	v.feeding.Lock()
	defer v.feeding.Unlock()
	v.fed = nil
	s := v.d.attach(v)
	v.setSource(s)
	return s
}

// placeAgain places a served volume's directory, of the file server that there is now.
func (v *volume) placeAgain(ctx context.Context) error {
	source, err := v.d.feeder.Source(ctx, v.dir)
	if err != nil {
		return err
	}
	return live.Place(source, v.target)
}

// unserve takes the directory away. op is held.
func (v *volume) unserve() {
	if s := v.served(); s != nil {
		v.setSource(nil)
		v.d.detach(v, s)
	}
	if err := live.Clear(v.target); err != nil {
		v.d.log.Error("a volume's directory stays mounted", "volume", v.Name, "error", err)
		return
	}
	if err := v.d.feeder.Withdraw(v.d.ctx, v.dir); err != nil {
		v.d.log.Warn("the file server keeps a volume's directory", "volume", v.Name, "error", err)
	}
	_ = os.Remove(v.target)
}

// release is for a mount that Docker has no more: the last one's ends the serving, unless containers have the volume. op is held.
func (v *volume) release(id string) {
	if v.unmounted(id) == 0 && v.inUse() == nil {
		v.unserve()
	}
}

// feed gives the file server what was last seen of the secret. That is chosen under the same lock under which it is given, so
// that nothing older follows. What the file server did not take is given again by the next look: Fresh would call the values
// before it current.
func (v *volume) feed(ctx context.Context) (err error) {
	v.feeding.Lock()
	defer v.feeding.Unlock()
	s := v.served()
	if s == nil {
		return nil
	}
	last := s.seen()
	if v.fed != nil && *v.fed == last.digest {
		err = v.d.feeder.Fresh(ctx, v.dir, last.at)
	} else {
		err = v.d.feeder.Set(ctx, v.dir, last.fields, last.at)
	}
	v.fed = nil
	if err == nil {
		v.fed = &last.digest
	}
	if refused := err != nil; refused != v.refused && ctx.Err() == nil {
		v.refused = refused
		if refused {
			v.d.log.Error("the file server does not take a volume's secret: trying again at each look", "volume", v.Name, "error", err)
		} else {
			v.d.log.Info("the file server takes a volume's secret again", "volume", v.Name)
		}
	}
	return err
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
