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

	op        sync.Mutex // held for an operation on it; guards what follows
	owner     owner
	wanted    bool // by a task that runs: as long as it is not served, that is tried again
	served    bool // it is declared, has values, and is placed
	gone      bool
	unsure    bool   // the file server may have other values than the session: an earlier feeder's
	late      bool   // it is out of date, which was told
	lastEvent string // about its fields

	mu   sync.Mutex // guards what follows
	news news
}

// news is what a session has found out and the file server does not know yet.
type news struct{ set, looked, failed bool }

// start serves the directory for its owner, whose process is about to run.
func (dir *liveDir) start(ctx context.Context, o owner) error {
	dir.op.Lock()
	defer dir.op.Unlock()
	dir.owner = o
	err := dir.serve(ctx)
	dir.wanted = err == nil
	return err
}

// resume serves the directory of a task that an earlier process of this plugin started: that may have served it, and something
// newer. If it cannot be now, it is as soon as it can.
func (dir *liveDir) resume(ctx context.Context, o owner) {
	dir.op.Lock()
	defer dir.op.Unlock()
	dir.owner, dir.wanted, dir.unsure = o, true, true
	dir.tell(dir.serve(ctx))
}

// serve declares the directory, gives it what the task has, and places it. op is held.
func (dir *liveDir) serve(ctx context.Context) error {
	feeder, err := dir.all.open()
	if err != nil {
		return err
	}
	if dir.gone {
		return errors.New("the task has ended")
	}
	source, err := feeder.Declare(ctx, live.Directory{
		Name: dir.name, UID: uint32(dir.owner.UID), GID: uint32(dir.owner.GID), Mode: secrets.DefaultPerms, Stale: dir.is.Stale, Listing: dir.is.Listing,
	})
	if err != nil {
		return err
	}
	fields, looked := dir.fields()
	give := feeder.Set
	if dir.unsure {
		give = feeder.Restore
	}
	if err := give(ctx, dir.name, fields, looked); err != nil {
		return err
	}
	err = live.Place(source, dir.target)
	dir.served = err == nil
	return err
}

// serveAgain serves the directory if that could not be done yet. Who has just begun with it is not waited for.
func (dir *liveDir) serveAgain(ctx context.Context) {
	if !dir.op.TryLock() {
		return
	}
	defer dir.op.Unlock()
	if dir.wanted && !dir.served && !dir.gone {
		dir.tell(dir.serve(ctx))
	}
}

// tell logs, and has an event say, that the directory is out of date, and later that it is current: not each try between.
func (dir *liveDir) tell(err error) {
	log := dir.all.d.log.With("alloc_id", dir.task.cfg.AllocID, "task", dir.task.cfg.Name, "secret", dir.secret)
	switch {
	case errors.Is(err, context.Canceled), dir.all.d.ctx.Err() != nil: // what it was for has ended
	case err != nil && !dir.late:
		dir.late = true
		log.Error("a live directory is out of date; trying again", "error", err)
		dir.task.Event(fmt.Sprintf("Secrets: secret %q: its live_dir is out of date; trying again: %v", dir.secret, secrets.ShortError(err)))
	case err == nil && dir.late:
		dir.late = false
		log.Info("a live directory is current again")
		dir.task.Event(fmt.Sprintf("Secrets: secret %q: its live_dir is current again", dir.secret))
	}
}

// fields are the files that the directory is to have, and when the server was known to have them.
func (dir *liveDir) fields() ([]live.Field, time.Time) {
	content, looked := dir.task.session.Live(dir.secret)
	files, err := live.Flatten(content)
	text := ""
	if err != nil {
		text = fmt.Sprintf("Secrets: secret %q: not all of it can be files in its live_dir: %v", dir.secret, secrets.ShortError(err))
	}
	if text != "" && text != dir.lastEvent {
		dir.task.Event(text)
	}
	dir.lastEvent = text
	return files, looked
}

// ensure serves the directory if a task that runs is to have it, and has it not yet.
func (dir *liveDir) ensure(ctx context.Context) error {
	dir.op.Lock()
	defer dir.op.Unlock()
	if !dir.wanted || dir.served || dir.gone {
		return nil
	}
	return dir.serve(ctx)
}

// place puts the directory where the task has it, again after the file server was replaced.
func (dir *liveDir) place(ctx context.Context) error {
	dir.op.Lock()
	defer dir.op.Unlock()
	return dir.placeLocked(ctx)
}

// heal does the same when another file server has taken over.
func (dir *liveDir) heal(ctx context.Context) {
	dir.op.Lock()
	defer dir.op.Unlock()
	if err := dir.placeLocked(ctx); err != nil { // of its values nothing is known by that
		dir.tell(err)
	}
}

// placeLocked is place. op is held.
func (dir *liveDir) placeLocked(ctx context.Context) error {
	switch {
	case !dir.wanted || dir.gone:
		return nil
	case !dir.served:
		return dir.serve(ctx)
	}
	feeder, err := dir.all.open()
	if err != nil {
		return err
	}
	source, err := feeder.Source(ctx, dir.name)
	if err == nil {
		err = live.Place(source, dir.target)
	}
	dir.served = err == nil
	return err
}

// note keeps what a session has found out, and returns at once.
func (dir *liveDir) note(look lifecycle.Look) {
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
func (dir *liveDir) deliver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout) // who brings another file server waits for the directory
	defer cancel()
	dir.mu.Lock()
	n := dir.news
	dir.news = news{}
	dir.mu.Unlock()
	if n == (news{}) {
		return // others' are not to wait for it
	}
	dir.op.Lock()
	defer dir.op.Unlock()
	if !dir.served || dir.gone { // who serves it asks the session, which has looked itself by now
		dir.unsure = dir.unsure && !n.set && !n.looked
		return
	}
	feeder, err := dir.all.open()
	if err != nil {
		return // the plugin ends
	}
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
		return
	}
	dir.tell(err)
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
	feeder, err := dir.all.open()
	if err == nil {
		err = feeder.Withdraw(ctx, dir.name)
	}
	if rm := os.Remove(dir.target); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}
