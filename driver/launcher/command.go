package launcher

import (
	"errors"
	"fmt"
	"strings"
)

// ErrNoCommand is Docker's own answer when neither image nor task says what to run.
var ErrNoCommand = errors.New("no command specified")

// ImageConfig is what an image says about what to run.
type ImageConfig struct{ Entrypoint, Cmd []string }

// TaskCommand is what a task's driver config says about what to run.
type TaskCommand struct {
	Entrypoint []string // nil takes the image's; empty runs without any
	Command    string
	Args       []string
}

// Command gives the argv that Docker would have run: first as Nomad's docker driver makes a
// container's config of the task's (createContainerConfig), then as dockerd merges that with the
// image's (merge, in daemon/commit.go, and verifyContainerConfig's rule for [""]).
func Command(image ImageConfig, task TaskCommand) (argv []string, err error) {
	entrypoint, cmd := task.Entrypoint, task.Args
	if task.Command != "" {
		trimmed := strings.TrimSpace(task.Command)
		if trimmed == "" {
			return nil, fmt.Errorf("command empty: %q", task.Command)
		}
		if trimmed != task.Command {
			return nil, fmt.Errorf("command contains extra white space: %q", task.Command)
		}
		cmd = append([]string{task.Command}, task.Args...)
	}
	if len(entrypoint) == 0 {
		if len(cmd) == 0 {
			cmd = image.Cmd
		}
		if entrypoint == nil {
			entrypoint = image.Entrypoint
		}
	}
	// [""] is how the CLI resets an image's entrypoint, and dockerd knows it, after merging.
	if len(entrypoint) == 1 && entrypoint[0] == "" {
		entrypoint = nil
	}
	argv = append(append(argv, entrypoint...), cmd...)
	if len(argv) == 0 {
		return nil, ErrNoCommand
	}
	return argv, nil
}
