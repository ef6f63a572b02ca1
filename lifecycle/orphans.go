package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"
)

// sweepEvery is how often the state directory is looked through for tasks that are gone.
const sweepEvery = 10 * time.Minute

// sweep ends, now and then, what the journal says of tasks that nobody will end: while the plugin was
// away the task ended and its allocation was removed, so Nomad never hands it to Recover (E1).
func (k *Keeper) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		k.endOrphans()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// endOrphans owes what tasks have of which no directory is left. A task that lives, or may yet be
// recovered or started again, has one.
func (k *Keeper) endOrphans() {
	tasks, err := listJournals(k.cfg.StateDir)
	if err != nil {
		k.cfg.Log.Warn("look for tasks that are gone", "error", err)
	}
	for _, t := range tasks {
		if _, err := os.Lstat(t.Dir); t.Dir == "" || !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		k.cfg.Log.Info("a task is gone; its leases are revoked", "alloc_id", t.AllocID, "task", t.Name)
		if err := k.Abandon(t); err != nil {
			k.cfg.Log.Warn("end a task that is gone", "alloc_id", t.AllocID, "task", t.Name, "error", err)
		}
	}
}
