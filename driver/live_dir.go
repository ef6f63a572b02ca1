package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
)

// liveDir is one secret's live directory, of one task.
type liveDir struct {
	all    *liveDirs
	task   *task
	secret string
	name   string // at the file server
	target string // where it is placed
	is     secrets.LiveDir

	op     sync.Mutex // held for an operation on it; guards what follows
	served bool
	gone   bool
	unsure bool   // the file server may have other values than the session: an earlier feeder's
	told   string // what the task was last told of its fields

	mu   sync.Mutex // guards what follows
	news news
}

// news is what a session has found out and the file server does not know yet.
type news struct{ set, looked, failed bool }

// serve declares the directory for its owner, gives it what the task has, and places it. restored: an earlier process of this
// plugin may have served it, and something newer.
func (dir *liveDir) serve(ctx context.Context, o owner, restored bool) error {
	feeder, err := dir.all.open()
	if err != nil {
		return err
	}
	dir.op.Lock()
	defer dir.op.Unlock()
	if dir.gone {
		return errors.New("the task has ended")
	}
	source, err := feeder.Declare(ctx, live.Directory{
		Name: dir.name, UID: uint32(o.UID), GID: uint32(o.GID), Mode: secrets.DefaultPerms, Stale: dir.is.Stale, Listing: dir.is.Listing,
	})
	if err != nil {
		return err
	}
	dir.served, dir.unsure = true, restored
	fields, looked := dir.fields()
	give := feeder.Set
	if restored {
		give = feeder.Restore
	}
	if err := give(ctx, dir.name, fields, looked); err != nil {
		return err
	}
	return live.Place(source, dir.target)
}

// fields are the files that the directory is to have, and when the server was known to have them.
func (dir *liveDir) fields() ([]live.Field, time.Time) {
	content, looked := dir.task.session.Live(dir.secret)
	files, err := live.Flatten(content)
	text := ""
	if err != nil {
		text = fmt.Sprintf("Secrets: secret %q: not all of it can be files in its live_dir: %v", dir.secret, secrets.ShortError(err))
	}
	if text != "" && text != dir.told {
		dir.task.Event(text)
	}
	dir.told = text
	return files, looked
}

// place puts the directory where the task has it, again after the file server was replaced.
func (dir *liveDir) place(ctx context.Context) error {
	feeder, err := dir.all.open()
	if err != nil {
		return err
	}
	dir.op.Lock()
	defer dir.op.Unlock()
	if !dir.served || dir.gone {
		return nil
	}
	source, err := feeder.Source(ctx, dir.name)
	if err != nil {
		return err
	}
	return live.Place(source, dir.target)
}

// tell notes what a session has found out, and returns at once.
func (dir *liveDir) tell(look lifecycle.Look) {
	dir.mu.Lock()
	switch {
	case look.Fields != nil:
		dir.news.set = true
	case look.Err != nil:
		dir.news.failed = true
	default:
		dir.news.looked = true
	}
	dir.mu.Unlock()
	select {
	case dir.all.wake <- struct{}{}:
	default: // it is to wake already
	}
}

// deliver gives the file server what the session has found out.
func (dir *liveDir) deliver(ctx context.Context, feeder *live.Feeder) {
	dir.mu.Lock()
	n := dir.news
	dir.news = news{}
	dir.mu.Unlock()
	if n == (news{}) {
		return // others' are not to wait for it
	}
	dir.op.Lock()
	defer dir.op.Unlock()
	if !dir.served || dir.gone { // who serves it asks the session
		return
	}
	var err error
	switch {
	case n.set, n.looked && dir.unsure:
		files, looked := dir.fields()
		if err = feeder.Set(ctx, dir.name, files, looked); err == nil {
			dir.unsure = false
		}
	case n.looked:
		_, looked := dir.task.session.Live(dir.secret)
		err = feeder.Fresh(ctx, dir.name, looked)
	case n.failed:
		feeder.Failed(dir.name)
	}
	if err != nil && ctx.Err() == nil {
		dir.all.d.log.Error("the file server does not take what a live directory is to have", "alloc_id", dir.task.cfg.AllocID,
			"task", dir.task.cfg.Name, "secret", dir.secret, "error", err)
	}
}

// prepare makes the place of a directory whose task has no process: what an earlier start left there goes.
func (dir *liveDir) prepare() error {
	if err := live.Clear(dir.target); err != nil {
		return err
	}
	// Not to be looked at: what is mounted there may be of a file server that is dead.
	if err := os.Mkdir(dir.target, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// remove takes the directory away, and what is mounted at its place.
func (dir *liveDir) remove(ctx context.Context) error {
	dir.op.Lock()
	defer dir.op.Unlock()
	dir.gone = true
	if err := live.Clear(dir.target); err != nil {
		return err
	}
	var err error
	if dir.served {
		var feeder *live.Feeder
		if feeder, err = dir.all.open(); err == nil {
			err = feeder.Withdraw(ctx, dir.name)
		}
	}
	if rm := os.Remove(dir.target); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}
