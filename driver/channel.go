package driver

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/statedir"
)

// channelOf is a task's channel to the launcher (L1).
func (d *Driver) channelOf(cfg *drivers.TaskConfig) (launcher.Channel, error) {
	state, err := d.state()
	if err != nil {
		return launcher.Channel{}, err
	}
	return launcher.ChannelOf(state.Channel(), cfg.AllocID, cfg.Name), nil
}

// state is the state directory, made ready.
func (d *Driver) state() (*statedir.Dir, error) {
	d.mu.Lock()
	path := d.opts.stateDir
	d.mu.Unlock()
	return statedir.Open(path)
}

// removeChannel takes a task's channel away, if it has one, and the files that its container had bound with it.
func (d *Driver) removeChannel(cfg *drivers.TaskConfig) {
	channel, err := d.channelOf(cfg)
	if err == nil {
		err = errors.Join(channel.Remove(), launcherFile.RemoveFiles(channel))
	}
	if err != nil {
		d.log.Warn("a task's channel could not be removed", "task_id", cfg.ID, "error", err)
	}
}

// sweepChannels removes the channels of tasks that no driver's journal names, and the files that their containers had
// bound: a plugin was killed at their end.
// A task's journal is there before its channel is made.
func (d *Driver) sweepChannels() {
	state, err := d.state()
	if err == nil {
		journals := filepath.Dir(state.Journal(d.name))
		there := func(allocID, task string) bool { return hasJournal(journals, allocID, task) }
		err = errors.Join(launcher.SweepChannels(state.Channel(), there), launcherFile.SweepFiles(state.Channel(), there))
	}
	if err != nil {
		d.log.Warn("channels of tasks that have ended could not be removed", "error", err)
	}
}

// hasJournal reports whether a driver has a journal of a task, as far as can be told: what cannot be looked at counts.
func hasJournal(journals, allocID, task string) bool {
	drivers, err := os.ReadDir(journals)
	if err != nil {
		return true
	}
	return slices.ContainsFunc(drivers, func(d os.DirEntry) bool {
		_, err := os.Lstat(filepath.Join(journals, d.Name(), allocID, task))
		return !errors.Is(err, fs.ErrNotExist)
	})
}

// maxWaiting is how many commands of a task may wait at the launcher at once: each has two FIFOs in a file
// system that all tasks share. They wait for milliseconds, so that others hardly wait for their turn.
const maxWaiting = 16

// slots are maxWaiting turns. The zero value has all of them.
type slots struct {
	made  sync.Once
	taken chan struct{}
}

func (s *slots) all() chan struct{} {
	s.made.Do(func() { s.taken = make(chan struct{}, maxWaiting) })
	return s.taken
}

// take waits for a turn.
func (s *slots) take(ctx context.Context) error {
	select {
	case s.all() <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *slots) give() { <-s.all() }
