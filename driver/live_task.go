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

// serveLive has the live directories served for the user that the task's process runs as.
func (t *task) serveLive(ctx context.Context, o owner) error {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	for _, dir := range t.liveDirs() {
		if err := dir.serve(ctx, o, false); err != nil {
			return noFileServer(dir.secret, err)
		}
	}
	return nil
}

// recoverLive has the live directories served of a task that an earlier process of this plugin started. Those that cannot be
// now are as soon as there is a file server.
func (t *task) recoverLive(o owner) error {
	if err := t.openLive(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.d.ctx, liveTimeout)
	defer cancel()
	var errs []error
	for _, dir := range t.liveDirs() {
		if err := dir.serve(ctx, o, true); err != nil {
			errs = append(errs, noFileServer(dir.secret, err))
		}
	}
	return errors.Join(errs...)
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
// stead, reaches the container. Those that are served are made sure of: Docker refuses to bind what is dead.
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
			dir.tell(look)
		}
	}
}

// liveNames are the names that a live directory has below the state directory.
var liveNames = regexp.MustCompile(`^[0-9a-f-]{36}-[0-9a-f]{20}-[0-9a-f]{20}$`)

// sweep removes the places of tasks that no driver's journal names: a plugin was killed at their end. A task's journal is
// there before they are.
func (l *liveDirs) sweep() {
	if err := l.removeLeft(); err != nil {
		l.d.log.Warn("live directories of tasks that have ended could not be removed", "error", err)
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
	var errs []error
	for _, p := range places {
		if !liveNames.MatchString(p.Name()) {
			continue
		}
		if known, err := journalledLive(journals, p.Name()); err != nil {
			return err // better a place too many
		} else if known {
			continue
		}
		left := &liveDir{all: l, name: p.Name(), target: filepath.Join(state.Live(), p.Name())}
		errs = append(errs, left.remove(l.d.ctx))
	}
	return errors.Join(errs...)
}

// journalledLive reports whether a driver has a journal of the task that a live directory is of.
func journalledLive(journals, name string) (bool, error) {
	drivers, err := os.ReadDir(journals)
	if err != nil {
		return false, err
	}
	for _, d := range drivers {
		tasks, err := journal.List(filepath.Join(journals, d.Name()))
		if err != nil {
			return false, err
		}
		for _, t := range tasks {
			if strings.HasPrefix(name, liveTask(t.AllocID, t.Name)) {
				return true, nil
			}
		}
	}
	return false, nil
}

// add makes directories known.
func (l *liveDirs) add(dirs []*liveDir) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, dir := range dirs {
		l.byName[dir.name] = dir
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
