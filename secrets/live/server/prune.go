package server

import (
	"context"
	"time"
)

// crowded is how many nodes it takes until the kernel is asked to forget some. Unless it is asked, it forgets what nobody has open
// only when memory runs short: a secret whose fields get other names again and again would fill this process.
const crowded = maxNodes / 2

// prune asks the kernel, from time to time, to forget what is not current. It keeps what somebody has open. forget may wait for
// readers that look something up in the same folder, and so for the store: that is not locked.
func (s *store) prune(ctx context.Context, forget func(folder uint64, name string)) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, e := range s.old() {
			forget(e.folder, e.name)
		}
	}
}

// cached is a name in a folder, as the kernel knows it.
type cached struct {
	folder uint64 // its node
	name   string
}

// old are the names in crowded directories that are not there any more, or are of another version, and those in directories that are gone.
// The directories themselves are not touched: what is mounted is known by their names.
func (s *store) old() []cached {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.nodes.byKey) <= crowded {
		return nil
	}
	var all []cached
	for key := range s.nodes.byKey {
		if key.path == "" || !key.dir.gone && key.dir.nodes <= crowded || key.current() {
			continue
		}
		folder, name := split(key.path)
		if parent := s.nodes.byKey[nodeKey{dir: key.dir, path: folder}]; parent != nil {
			all = append(all, cached{parent.id, name})
		}
	}
	return all
}

// current reports whether a directory's current version has a node in it.
func (k nodeKey) current() bool {
	current := k.dir.current
	if k.v == nil {
		return current != nil && current.isFolder(k.path)
	}
	return k.v == current
}
