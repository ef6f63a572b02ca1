package driver

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// An agent that is told to stop waits for the starts that are under way before it does anything that its plugins could see: their
// streams end after that. What it does first of all is to close its Task API, and with that each task's socket goes from
// its secrets directory (docs/nomad.md). So a start that waits for the secrets server looks for the socket.

const (
	// taskAPI is the socket, in the secrets directory. There is none where its path would be too long.
	taskAPI = "api.sock"
	// taskAPILook is how often it is looked for. It is gone when two looks in a row do not find it: Nomad may replace it.
	taskAPILook = time.Second
)

// errAgentStops is why a start gives up waiting.
var errAgentStops = errors.New("the Nomad agent stops")

// whileAgentStays ends with ctx, and a moment after the agent has begun to stop: what the server answers at once is still
// taken. done is to be called when it is not needed any more.
func (d *Driver) whileAgentStays(ctx context.Context, cfg *drivers.TaskConfig) (stays context.Context, done func()) {
	socket := filepath.Join(cfg.TaskDir().SecretsDir, taskAPI)
	if !isSocket(socket) {
		return ctx, func() {}
	}
	stays, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		look := time.NewTicker(taskAPILook)
		defer look.Stop()
		for missed := 0; missed < 2; {
			select {
			case <-look.C:
			case <-stays.Done():
				return
			}
			if _, err := os.Lstat(socket); errors.Is(err, fs.ErrNotExist) {
				missed++
			} else {
				missed = 0
			}
		}
		d.log.Info("the agent stops: the start of a task does not wait for its secrets any longer", "task_id", cfg.ID)
		cancel(errAgentStops)
	}()
	return stays, func() {
		cancel(nil)
		<-ended
	}
}

func isSocket(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSocket != 0
}
