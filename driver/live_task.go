package driver

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// openLive makes the task's live directories known, so that what is told of them finds them.
func (t *task) openLive() error {
	if !t.session.Spec().HasLive() {
		return nil
	}
	state, err := t.d.state()
	if err != nil {
		return err
	}
	var lives []*liveDir
	for _, sec := range t.session.Spec().Secrets {
		if sec.Live == nil {
			continue
		}
		name := liveName(t.cfg.AllocID, t.cfg.Name, sec.Name)
		lives = append(lives, &liveDir{
			all: t.d.live, task: t, secret: sec.Name, name: name, target: filepath.Join(state.Live(), name), is: *sec.Live,
		})
	}
	t.lives.Store(&lives)
	t.d.live.add(lives)
	return nil
}

// liveDirs are the task's live directories. Any goroutine may ask: a session watches while its task is started.
func (t *task) liveDirs() []*liveDir {
	if lives := t.lives.Load(); lives != nil {
		return *lives
	}
	return nil
}

// prepareLive makes the places of the live directories of a task that has no process yet.
func (t *task) prepareLive() error {
	if err := t.openLive(); err != nil {
		return err
	}
	for _, dir := range t.liveDirs() {
		if err := dir.prepare(); err != nil {
			return noFileServer(dir.secret, err)
		}
	}
	return nil
}

// serveLive has the live directories of a task that is started served for the user that the task's process runs as.
func (t *task) serveLive(ctx context.Context, o owner) error {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	for _, dir := range t.liveDirs() {
		if err := dir.start(ctx, o); err != nil {
			return noFileServer(dir.secret, err)
		}
	}
	return nil
}

// ensureLive makes sure that the live directories of a task are served that is restarted in place: its program must not run
// without (S1).
func (t *task) ensureLive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	for _, dir := range t.liveDirs() {
		if err := dir.ensure(ctx); err != nil {
			return noFileServer(dir.secret, err)
		}
	}
	return nil
}

// recoverLive has the live directories served of a task that an earlier process of this plugin started. Those that cannot be
// now are as soon as there is a file server.
func (t *task) recoverLive(o owner) {
	ctx, cancel := context.WithTimeout(t.d.ctx, liveTimeout)
	defer cancel()
	for _, dir := range t.liveDirs() {
		dir.resume(ctx, o)
	}
}

// removeLive takes the live directories away.
func (t *task) removeLive() {
	if len(t.liveDirs()) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.d.ctx), liveTimeout)
	defer cancel()
	for _, dir := range t.liveDirs() {
		if err := dir.remove(ctx); err != nil {
			t.d.log.Warn("a live directory could not be removed", "task_id", t.cfg.ID, "secret", dir.secret, "error", err)
		}
	}
	t.d.live.drop(t.liveDirs())
}

// liveMounts are the mounts of the live directories in the task's container. What is placed later, in a file server's
// stead, reaches the container. Those of a task that is restarted in place are made sure of: Docker refuses to bind what is dead.
func (t *task) liveMounts(ctx context.Context) ([]*drivers.MountConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	var mounts []*drivers.MountConfig
	for _, dir := range t.liveDirs() {
		if err := dir.place(ctx); err != nil {
			return nil, noFileServer(dir.secret, err)
		}
		mounts = append(mounts, &drivers.MountConfig{
			HostPath: dir.target, TaskPath: dir.is.Path, Readonly: true, PropagationMode: structs.VolumeMountPropagationHostToTask,
		})
	}
	return mounts, nil
}

// withLinks adds to a task's files the links to its live directories, where it has no file system of its own.
func (t *task) withLinks(set *secrets.Set) *secrets.Set {
	if t.d.wrapped.inContainer || len(t.liveDirs()) == 0 {
		return set
	}
	linked := secrets.Set{Env: set.Env, Files: slices.Clone(set.Files)}
	for _, dir := range t.liveDirs() {
		linked.Files = append(linked.Files, secrets.RenderedFile{Path: path.Clean(dir.is.Path), Link: dir.target})
	}
	slices.SortFunc(linked.Files, func(a, b secrets.RenderedFile) int { return strings.Compare(a.Path, b.Path) })
	return &linked
}

// Live gives a secret's live directory what the session has found of it.
func (t *task) Live(secret string, look lifecycle.Look) {
	for _, dir := range t.liveDirs() {
		if dir.secret == secret {
			dir.note(look)
		}
	}
}

// liveNames are the names that a live directory has below the state directory.
var liveNames = regexp.MustCompile(`^[0-9a-f-]{36}-[0-9a-f]{20}-[0-9a-f]{20}$`)

// sweepEvery is how often it is looked for what tasks left that have ended. Journals of tasks that nobody ends go as often.
const sweepEvery = 10 * time.Minute

// sweep removes, now and then, the places of tasks that no driver's journal names: a plugin was killed at their end, or they ended
// while it was away. A task's journal is there before they are.
func (l *liveDirs) sweep(ctx context.Context, again <-chan time.Time) {
	for {
		if err := l.removeLeft(); err != nil && ctx.Err() == nil {
			l.d.log.Warn("live directories of tasks that have ended could not be removed", "error", err)
		}
		select {
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

func (l *liveDirs) removeLeft() error {
	state, err := l.d.state()
	if err != nil {
		return err
	}
	places, err := os.ReadDir(state.Live())
	if err != nil {
		return err
	}
	journals := filepath.Dir(state.Journal(l.d.name))
	if _, err := os.Lstat(filepath.Join(journals, "..", liveHome)); err == nil {
		if _, err := l.open(); err != nil { // whoever is there clears up after a file server
			return err
		}
	}
	known, err := journalledLive(journals)
	if err != nil {
		return err // better a place too many
	}
	var errs []error
	for _, p := range places {
		name := p.Name()
		if !liveNames.MatchString(name) || known[taskOfLive(name)] || l.get(name) != nil {
			continue
		}
		// Since then it may have been started.
		if now, err := journalledLive(journals); err != nil || now[taskOfLive(name)] {
			errs = append(errs, err)
			continue
		}
		left := &liveDir{all: l, name: name, target: filepath.Join(state.Live(), name)}
		errs = append(errs, left.remove(l.d.ctx))
	}
	return errors.Join(errs...)
}

// journalledLive are the tasks of which a driver has a journal, as the names of live directories have them.
func journalledLive(journals string) (map[string]bool, error) {
	drivers, err := os.ReadDir(journals)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, d := range drivers {
		tasks, err := journal.List(filepath.Join(journals, d.Name()))
		if err != nil {
			return nil, err
		}
		for _, t := range tasks {
			known[liveTask(t.AllocID, t.Name)] = true
		}
	}
	return known, nil
}

// taskOfLive is what the names of all live directories of its task begin with.
func taskOfLive(name string) string { return name[:len(name)-len(short(""))] }

// add makes directories known. With the first it begins to deliver.
func (l *liveDirs) add(dirs []*liveDir) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, dir := range dirs {
		l.byName[dir.name] = dir
	}
	if l.ended == nil && l.d.ctx.Err() == nil {
		l.ended = make(chan struct{})
		go l.deliver(l.d.ctx, l.ended)
	}
}

// drop forgets directories, unless a later start of the task has them.
func (l *liveDirs) drop(dirs []*liveDir) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, dir := range dirs {
		if l.byName[dir.name] == dir {
			delete(l.byName, dir.name)
		}
	}
}
