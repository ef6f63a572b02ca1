package live

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

const (
	startTimeout = 10 * time.Second
	firstRetry   = 100 * time.Millisecond
	lastRetry    = 2 * time.Second
)

// run keeps a connection while there are directories.
func (f *Feeder) run(ctx context.Context) {
	defer close(f.ended)
	retry := firstRetry
	placed := 0 // the process of the file server whose directories were placed last
	for f.needed(ctx) {
		c, err := f.connect(ctx)
		if err == nil {
			if err = c.unlessHung(ctx, func(ctx context.Context) error { return f.refeed(ctx, c) }); err != nil {
				f.tellHung("declaring all directories", err)
				c.close()
			}
		}
		if ctx.Err() != nil {
			if err == nil {
				c.close()
			}
			return
		}
		if errors.Is(err, errIdle) && f.gone() {
			continue
		}
		f.tried(c, err)
		if err != nil {
			f.cfg.Log.Warn("no file server for live directories: trying again", "in", retry, "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(retry):
			}
			retry = min(2*retry, lastRetry)
			continue
		}
		retry = firstRetry
		if placed == 0 { // by the user itself, as each is declared
			placed = c.peer.pid
		}
		if f.serve(ctx, c, placed != c.peer.pid) {
			placed = c.peer.pid
		}
	}
}

// needed waits until there are directories, or while there are none, a file server: whoever is connected to it clears up
// after it when it ends.
func (f *Feeder) needed(ctx context.Context) bool {
	for ctx.Err() == nil {
		f.mu.Lock()
		needed, changed := len(f.dirs) > 0, f.changed
		f.mu.Unlock()
		if needed || !f.gone() {
			return true
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return false
}

// gone reports whether nothing is left of a file server.
func (f *Feeder) gone() bool {
	_, err := os.Lstat(f.home.socket())
	return errors.Is(err, fs.ErrNotExist)
}

func (f *Feeder) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.dirs) == 0
}

// errIdle: there is no file server, and none is needed.
var errIdle = errors.New("there are no live directories")

// connect connects to the file server, starting one if there is none.
func (f *Feeder) connect(ctx context.Context) (*client, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if c, err := f.dial(ctx); err == nil {
		return c, nil
	}
	unlock, err := f.home.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if c, err := f.dial(ctx); err == nil {
		return c, nil // another feeder was quicker
	}
	if f.idle() {
		return nil, errors.Join(errIdle, f.home.tidy())
	}
	if err := f.home.start(ctx); err != nil {
		return nil, err
	}
	c, err := f.dial(ctx)
	if err != nil {
		return nil, err
	}
	if err := leaveCgroup(c.peer.pid); err != nil {
		f.cfg.Log.Warn("the file server may end with this process's cgroup", "error", err)
	}
	f.cfg.Log.Info("started a file server for live directories", "pid", c.peer.pid, "mount", c.server.Root)
	return c, nil
}

// dial connects to a file server that is there.
func (f *Feeder) dial(ctx context.Context) (*client, error) {
	c, err := dial(ctx, f.home.socket(), f.cfg.Feeder)
	f.tellHung("hello", err)
	return c, err
}

// tellHung logs that a file server hung and was killed, if that is the error.
func (f *Feeder) tellHung(during string, err error) {
	if errors.Is(err, errHung) {
		f.cfg.Log.Warn("live directories get another file server", "during", during, "error", err)
	}
}

// refeed gives a file server all that was declared and set. What it refuses is no reason to give up the rest.
func (f *Feeder) refeed(ctx context.Context, c *client) error {
	f.mu.Lock()
	names := slices.Sorted(maps.Keys(f.dirs))
	f.mu.Unlock()
	for _, name := range names {
		f.mu.Lock()
		d, ok := f.dirs[name]
		var now kept
		if ok {
			now = *d
		}
		f.mu.Unlock()
		if !ok {
			continue
		}
		err := c.declare(ctx, now.Directory)
		if err == nil && now.number > 0 {
			now.taken = false // by this one
			err = f.give(ctx, c, now)
		}
		var no refusal
		if errors.As(err, &no) {
			f.cfg.Log.Error("the file server refuses a live directory", "directory", name, "error", err)
		} else if err != nil {
			return err
		}
		if err := f.unfeed(ctx, c, name); err != nil {
			return err
		}
	}
	return nil
}

// unfeed takes away again what was withdrawn while it was being declared.
func (f *Feeder) unfeed(ctx context.Context, c *client, name string) error {
	f.mu.Lock()
	_, ok := f.dirs[name]
	f.mu.Unlock()
	if ok {
		return nil
	}
	_, err := c.call(ctx, wire.Message{Type: wire.Withdraw, Dir: name})
	return err
}

// tried notes how an attempt to connect ended.
func (f *Feeder) tried(c *client, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries++
	f.failed = err
	if err == nil {
		f.client = c
	}
	f.signal()
}

// serve hands on what the file server reports, until the connection ends. It gives whether all is placed.
func (f *Feeder) serve(ctx context.Context, c *client, anew bool) (placed bool) {
	var wg sync.WaitGroup
	connected, cancel := context.WithCancel(ctx) // what is called must not wait for the next connection
	wg.Go(func() {
		if anew && f.cfg.Healed != nil {
			f.cfg.Healed(connected)
		}
		placed = connected.Err() == nil
		for m := range c.events {
			f.event(m)
		}
	})
	f.tellHung("service", c.watch(ctx))
	f.lost(c)
	cancel()
	c.close()
	wg.Wait()
	return placed
}

func (f *Feeder) event(m wire.Message) {
	if f.cfg.Reads != nil && (m.Type == wire.Reads || m.Lost > 0) {
		r := Reads{Active: m.Active, Lost: m.Lost, Opens: make([]Access, len(m.Read))}
		for i, o := range m.Read {
			r.Opens[i] = Access{Dir: o.Dir, Field: o.Path, UID: o.UID, PID: o.PID, Result: string(o.Result), At: time.UnixMilli(o.UnixMS)}
		}
		f.cfg.Reads(r)
	}
	if m.Type == wire.Want && f.cfg.Want != nil {
		f.cfg.Want(m.Dir)
	}
	if m.Type == wire.Log {
		f.cfg.Log.Warn(m.Text)
	}
}
