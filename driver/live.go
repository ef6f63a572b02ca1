package driver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
)

// liveDirs feeds the file server with the live directories of this driver's tasks. It has no effect until a task has one.
//
// A directory is declared and set when its task's process is about to run, and placed at a directory of its own below
// state_dir: that is bound into the container, or linked to from the secrets directory. What the sessions find out later
// goes to the file server from one goroutine, so that nothing of a session waits for it; what could not be served is tried again there.
type liveDirs struct {
	d    *Driver
	wake chan struct{}

	mu     sync.Mutex // guards what follows
	feeder *live.Feeder
	audit  *live.Audit
	ended  chan struct{} // of the goroutine that delivers; nil: no task had a live directory yet
	byName map[string]*liveDir
}

const (
	// liveTimeout bounds what a start waits for the file server.
	liveTimeout = 20 * time.Second
	// serveAgain is how often directories are tried to be served that could not be.
	serveAgain = 2 * time.Second
	// liveAudit is in the state directory, beside the file server's home.
	liveHome, liveAudit = "live", "audit"
)

// errNoFileServer is of a task whose live directories cannot be served now: an operator may repair what is missing.
var errNoFileServer = errors.New("live directories cannot be served")

func newLiveDirs(d *Driver) *liveDirs {
	return &liveDirs{d: d, wake: make(chan struct{}, 1), byName: map[string]*liveDir{}}
}

// open begins to feed.
func (l *liveDirs) open() (*live.Feeder, error) {
	l.d.mu.Lock()
	state := l.d.opts.stateDir
	l.d.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.feeder != nil {
		return l.feeder, nil
	}
	if err := l.d.ctx.Err(); err != nil {
		return nil, err
	}
	audit, err := live.OpenAudit(filepath.Join(state, liveAudit, l.d.name+".log"))
	if err != nil {
		return nil, err
	}
	l.audit = audit
	l.feeder = live.Open(live.Config{
		Feeder: l.d.name, Dir: filepath.Join(state, liveHome), Log: l.d.log.Named("live"),
		Healed: l.healed, Want: l.want, Reads: l.reads,
	})
	return l.feeder, nil
}

// close ends the feeding, after the plugin's context has. The directories are served on.
func (l *liveDirs) close() {
	l.mu.Lock()
	feeder, ended, audit := l.feeder, l.ended, l.audit
	l.mu.Unlock() // which those who are joined take
	if feeder != nil {
		feeder.Close()
	}
	if ended != nil {
		<-ended
	}
	if audit != nil {
		_ = audit.Close()
	}
}

func (l *liveDirs) all() []*liveDir {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.byName))
}

func (l *liveDirs) get(name string) *liveDir {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byName[name]
}

// liveName is a directory's name, at the file server and below the state directory: of all that a task has, the names
// begin alike.
func liveName(allocID, task, secret string) string { return liveTask(allocID, task) + short(secret) }

func liveTask(allocID, task string) string { return allocID + "-" + short(task) + "-" }

func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:10])
}

// deliver gives the file server what the sessions have found out, and has served what could not be yet.
func (l *liveDirs) deliver(ctx context.Context, ended chan<- struct{}) {
	defer close(ended)
	again := time.NewTicker(serveAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
			for _, dir := range l.all() {
				dir.deliver(ctx)
			}
		case <-again.C:
			l.serveAgain(ctx)
		}
	}
}

func (l *liveDirs) serveAgain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout) // there may be news by then
	defer cancel()
	for _, dir := range l.all() {
		dir.serveAgain(ctx)
	}
}

// healed places all directories again, which another file server serves now.
func (l *liveDirs) healed(ctx context.Context) {
	for _, dir := range l.all() {
		dir.heal(ctx)
	}
}

// want is for a reader that waits for a look.
func (l *liveDirs) want(name string) {
	if dir := l.get(name); dir == nil || !dir.task.session.Reading(dir.secret) {
		l.mu.Lock()
		feeder := l.feeder
		l.mu.Unlock()
		feeder.Failed(name) // there is none: what the task has is what is current
	}
}

// reads has what is being read polled, and writes the audit log.
func (l *liveDirs) reads(r live.Reads) {
	for _, name := range r.Active {
		if dir := l.get(name); dir != nil {
			dir.task.session.Reading(dir.secret)
		}
	}
	lines := make([]live.AuditLine, 0, len(r.Opens))
	for _, o := range r.Opens {
		l.d.metrics.LiveRead(o.Result, 1)
		line := live.AuditLine{Time: o.At.UTC(), Field: o.Field, UID: o.UID, PID: o.PID, Result: o.Result}
		if dir := l.get(o.Dir); dir != nil {
			line.Alloc, line.Task, line.Secret = dir.task.cfg.AllocID, dir.task.cfg.Name, dir.secret
		}
		lines = append(lines, line)
	}
	if r.Lost > 0 {
		l.d.metrics.LiveRead("lost", r.Lost)
		lines = append(lines, live.AuditLine{Time: time.Now().UTC(), Result: "lost", Count: r.Lost})
	}
	if err := l.audit.Write(lines...); err != nil {
		l.d.log.Error("reads of live directories are not in the audit log", "error", err)
	}
}

// noFileServer wraps what keeps live directories from being served.
func noFileServer(secret string, err error) error {
	return fmt.Errorf("secret %q: %w: %w", secret, errNoFileServer, err)
}
