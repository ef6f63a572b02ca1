package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
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

// endOrphans has revoked what tasks have of which no directory is left. A task that lives, or may yet be
// recovered or started again, has one.
func (k *Keeper) endOrphans() {
	tasks, err := journal.List(k.cfg.StateDir)
	if err != nil {
		k.cfg.Log.Warn("some journals cannot be read; what they name is not revoked", "error", err)
	}
	for _, t := range tasks {
		if _, err := os.Lstat(t.Dir); t.Dir == "" || !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		k.cfg.Log.Info("the task's directory is gone; its leases are revoked", "alloc_id", t.AllocID, "task", t.Name)
		if err := k.Abandon(t); err != nil {
			k.cfg.Log.Warn("the leases of a task whose directory is gone cannot be revoked yet", "alloc_id", t.AllocID, "task", t.Name, "error", err)
		}
	}
}
