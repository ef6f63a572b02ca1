package live

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

// Config says who feeds, and who is told what. The functions are called one at a time, from one goroutine; while one
// takes its time, events are lost, not kept. Only Healed may wait for the Feeder, with the context that it gets.
type Config struct {
	Feeder string // a driver's name, for example: two that run at once have different directories by it
	Dir    string // root's alone: the file server's socket and mount
	Log    hclog.Logger

	Healed func(ctx context.Context) // another file server has taken over: Place everything again
	Want   func(dir string)          // somebody waits for a fresh look: Set, Fresh or Failed ends that
	Reads  func(Reads)
}

// Reads is what was read since the last report.
type Reads struct {
	Opens  []Access
	Active []string // directories in which somebody looked something up
	Lost   int      // opens that could not be kept
}

// Access is one open of a file, or an attempt at one.
type Access struct {
	Dir, Field string
	UID, PID   uint32 // as the host sees them
	Result     string // ok, unknown, stale, full
	At         time.Time
}

// Directory is what is declared.
type Directory struct {
	Name     string
	UID, GID uint32
	Mode     fs.FileMode   // of the files; 0: 0400
	Stale    time.Duration // how long a last value is served while nobody can look
	Listing  bool
}

// Field is one file's content.
type Field struct {
	Path  string // may have folders: a/b
	Value secrets.Value
}

// Feeder declares directories to the file server and keeps them there. It is safe for concurrent use.
type Feeder struct {
	cfg    Config
	home   home
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex // guards the rest
	dirs    map[string]*kept
	sets    uint64 // how many times fields were given
	client  *client
	changed chan struct{} // closed, and made anew, when client or failed changes, or a directory is needed
	tries   int           // attempts to get a client
	failed  error         // of the last of them
}

// kept is a directory as a new file server must get it.
type kept struct {
	Directory
	number  uint64 // of the set that fields are of; 0: none was given
	fields  []Field
	looked  time.Time
	orLater bool // fields are an earlier feeder's: the file server may have later ones
	taken   bool // by the file server: what it has not, such as what it refused, is not current there
}

// Open makes a Feeder. It does not fail: a file server is started when a directory is declared.
func Open(cfg Config) *Feeder {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Feeder{
		cfg: cfg, home: home{cfg.Dir}, cancel: cancel, ended: make(chan struct{}),
		dirs: map[string]*kept{}, changed: make(chan struct{}),
	}
	go f.run(ctx)
	return f
}

// Close ends the feeding. The file server and the directories stay.
func (f *Feeder) Close() {
	f.cancel()
	<-f.ended
}

// Declare makes a directory, or changes what is said of it, and gives the path to Place it from. If there is no file
// server and none can be started, that is the error.
func (f *Feeder) Declare(ctx context.Context, d Directory) (source string, err error) {
	if d.Mode == 0 {
		d.Mode = secrets.DefaultPerms
	}
	f.mu.Lock()
	have, known := f.dirs[d.Name]
	if !known {
		have = &kept{}
		f.dirs[d.Name] = have
		f.signal()
	}
	have.Directory = d
	f.mu.Unlock()
	err = f.do(ctx, func(c *client) error {
		source = f.source(c, d.Name)
		return c.declare(ctx, d)
	})
	if err != nil && !known {
		f.mu.Lock()
		delete(f.dirs, d.Name)
		c := f.client
		f.mu.Unlock()
		if c != nil { // which may have done it all the same
			_, _ = c.send(wire.Message{Type: wire.Withdraw, Dir: d.Name})
		}
	}
	return source, err
}

// Source is where a directory is to be placed from now.
func (f *Feeder) Source(ctx context.Context, dir string) (source string, err error) {
	err = f.do(ctx, func(c *client) error {
		source = f.source(c, dir)
		return nil
	})
	return source, err
}

func (f *Feeder) source(c *client, dir string) string {
	return filepath.Join(c.server.Root, wire.Entry(c.server.Key, f.cfg.Feeder, dir))
}

// Set makes fields the directory's current version. looked is when the secrets server was asked.
func (f *Feeder) Set(ctx context.Context, dir string, fields []Field, looked time.Time) error {
	k, err := f.keep(dir, fields, looked, false)
	if err != nil {
		return err
	}
	return f.do(ctx, func(c *client) error { return f.give(ctx, c, k) })
}

// keep checks fields, and keeps them for a file server that takes the place of this one. Those that are wrong are kept, too: what
// the directory had before them is not current any more.
func (f *Feeder) keep(dir string, fields []Field, looked time.Time, orLater bool) (kept, error) {
	wrong := wire.CheckFields(wireFields(fields))
	f.mu.Lock()
	defer f.mu.Unlock()
	d, ok := f.dirs[dir]
	if !ok {
		return kept{}, fmt.Errorf("live directory %s was not declared", dir)
	}
	f.sets++
	d.number, d.fields, d.looked, d.orLater, d.taken = f.sets, fields, looked, orLater, false
	if wrong != nil {
		return kept{}, secrets.Errorf(secrets.Invalid, "%w", wrong)
	}
	return *d, nil
}

// Fresh says that what was last set is still current. If the file server has not taken that, it gets it again.
func (f *Feeder) Fresh(ctx context.Context, dir string, looked time.Time) error {
	f.mu.Lock()
	d, ok := f.dirs[dir]
	if !ok || d.number == 0 {
		f.mu.Unlock()
		return fmt.Errorf("live directory %s was not set", dir)
	}
	d.looked, d.orLater = looked, false
	k := *d
	f.mu.Unlock()
	return f.do(ctx, func(c *client) error { return f.give(ctx, c, k) })
}

// Restore says what a directory had when an earlier feeder last looked. A file server that has values of it keeps those: they
// may be newer. It gets these if it has none.
func (f *Feeder) Restore(ctx context.Context, dir string, fields []Field, looked time.Time) error {
	k, err := f.keep(dir, fields, looked, true)
	if err != nil {
		return err
	}
	return f.do(ctx, func(c *client) error { return f.give(ctx, c, k) })
}

// give gives a file server the fields of a directory, or says that they are current if it has them, and notes whether it has.
func (f *Feeder) give(ctx context.Context, c *client, k kept) error {
	var err error
	if k.taken || k.orLater {
		err = c.fresh(ctx, k.Name, k.fields, k.looked, k.orLater)
	} else {
		err = c.set(ctx, k.Name, k.fields, k.looked)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.dirs[k.Name]; d != nil && d.number == k.number {
		d.taken = err == nil
	}
	return err
}

// Failed says that the secrets server could not be asked. It does not wait.
func (f *Feeder) Failed(dir string) {
	f.mu.Lock()
	c := f.client
	f.mu.Unlock()
	if c != nil {
		_, _ = c.send(wire.Message{Type: wire.Failed, Dir: dir})
	}
}

// Withdraw takes a directory away. Clear its targets first. Without a file server there is nothing to do.
func (f *Feeder) Withdraw(ctx context.Context, dir string) error {
	f.mu.Lock()
	delete(f.dirs, dir)
	c := f.client
	f.mu.Unlock()
	withdraw := func(ctx context.Context) error {
		_, err := c.call(ctx, wire.Message{Type: wire.Withdraw, Dir: dir})
		return err
	}
	var err error
	if c != nil {
		err = withdraw(ctx)
	} else if c, err = f.dial(ctx); err != nil { // a file server may have it of an earlier feeder
		return nil
	} else {
		defer c.close()
		err = c.unlessHung(ctx, withdraw)
		f.tellHung("withdrawal", err)
	}
	if errors.Is(err, errLost) || errors.Is(err, errHung) {
		return nil // the next one is not told of it
	}
	return err
}

// do makes a request, over the next connection too if one breaks.
func (f *Feeder) do(ctx context.Context, request func(*client) error) error {
	for {
		c, err := f.connected(ctx)
		if err != nil {
			return err
		}
		if err = request(c); !errors.Is(err, errLost) {
			return err
		}
		f.lost(c)
	}
}

// connected waits for a connection. An attempt that fails meanwhile is its error.
func (f *Feeder) connected(ctx context.Context) (*client, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	tries := f.tries
	for f.client == nil {
		if f.tries > tries && f.failed != nil {
			return nil, f.failed
		}
		changed := f.changed
		f.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = fmt.Errorf("wait for the file server: %w", ctx.Err())
		case <-f.ended:
			err = errors.New("the feeder is closed")
		}
		f.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
	return f.client, nil
}

// lost forgets a client that broke.
func (f *Feeder) lost(c *client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.client == c {
		f.client = nil
	}
}

// signal wakes those who wait. f.mu is held.
func (f *Feeder) signal() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func age(looked time.Time) int64 { return max(0, time.Since(looked).Milliseconds()) }

func wireFields(fields []Field) []wire.Field {
	list := make([]wire.Field, len(fields))
	for i, f := range fields {
		list[i] = wire.Field{Path: f.Path, Size: f.Value.Len()}
	}
	return list
}

func (c *client) declare(ctx context.Context, d Directory) error {
	_, err := c.call(ctx, wire.Message{Type: wire.Declare, Directory: &wire.Directory{
		Name: d.Name, UID: d.UID, GID: d.GID, Mode: uint32(d.Mode.Perm()), StaleMS: d.Stale.Milliseconds(), Listing: d.Listing,
	}})
	return err
}

func (c *client) set(ctx context.Context, dir string, fields []Field, looked time.Time) error {
	values := make([][]byte, len(fields))
	for i, f := range fields {
		values[i] = f.Value.Bytes()
	}
	_, err := c.call(ctx, wire.Message{Type: wire.Set, Dir: dir, AgeMS: age(looked), Fields: wireFields(fields)}, values...)
	return err
}

// fresh says that fields are what is current, or with orLater, that they were: then the file server keeps what it has of later.
func (c *client) fresh(ctx context.Context, dir string, fields []Field, looked time.Time, orLater bool) error {
	_, err := c.call(ctx, wire.Message{Type: wire.Fresh, Dir: dir, AgeMS: age(looked), OrLater: orLater})
	var no refusal
	if errors.As(err, &no) { // it has none, for they were wiped, or others
		return c.set(ctx, dir, fields, looked)
	}
	return err
}
