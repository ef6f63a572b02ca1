package driver

import (
	"math"

	"golang.org/x/sys/unix"
)

// What the kernel takes for a program's arguments and environment, together: a quarter of the stack's limit, between
// these two (execve(2)). Each string counts with the NUL that ends it and the pointer to it.
const (
	leastArgs  = 128 << 10
	mostArgs   = 6 << 20
	perString  = 1 + 8
	dockerRoom = 64 << 10 // for what the job does not say: the image's own variables, entrypoint and command
	spareRoom  = 8 << 10  // for the program's path, and what a script's interpreter adds
	// usualStack is the stack's limit where nobody has set another.
	usualStack = 8 << 20
)

// EnvRoom is how many bytes the variables of the task's secrets may take beside its own and its arguments. With more
// of them its program could not be started.
func (t *task) EnvRoom() int {
	return t.runner.envRoom(t)
}

// envRoom: a process of raw_exec inherits the plugin's limits.
func (p *processes) envRoom(t *task) int {
	var stack unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_STACK, &stack); err != nil {
		stack.Cur = usualStack
	}
	return roomBeside(stack.Cur, t.cfg.Env, t.options)
}

// envRoom: a container's limit is the job's, or else what Docker's commonly is.
func (c *containers) envRoom(t *task) int {
	stack := uint64(usualStack)
	for _, ulimit := range ulimits(t.options) {
		if value, ok := ulimit["stack"].(string); ok {
			if l := parseUlimit(value); l != nil {
				stack = l.Soft
			}
		}
	}
	return roomBeside(stack, t.cfg.Env, t.options) - dockerRoom
}

// roomBeside is what is left beside a job's own variables and arguments under a limit of the stack.
func roomBeside(stack uint64, env map[string]string, options map[string]any) int {
	room := int(min(max(stack/4, leastArgs), mostArgs, math.MaxInt)) - spareRoom
	for name, value := range env {
		room -= len(name) + 1 + len(value) + perString
	}
	for _, key := range []string{"command", "entrypoint", "args"} {
		switch value := options[key].(type) {
		case string:
			room -= len(value) + perString
		case []any:
			for _, item := range value {
				arg, _ := item.(string)
				room -= len(arg) + perString
			}
		}
	}
	return room
}
