package launcher

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/proc"
)

// Owner is a process's user and group, as the host sees them.
type Owner struct{ UID, GID int }

// OwnerOf reads whom a process runs as. A process that waits at the launcher has the app's user already,
// whichever way it was named, and the kernel gives its ids as the reader's user namespace sees them,
// which makes them right under userns-remap.
//
// A container's first process may change its user later: for an exec, take the owner of the exec's
// own waiting process, or the one read when the container waited.
func OwnerOf(pid int) (Owner, error) {
	st, err := proc.ReadStatus(pid)
	if err != nil {
		return Owner{}, fmt.Errorf("read the owner: %w", err)
	}
	const fileSystem = 3 // what files are opened as; it follows the effective one
	return Owner{UID: st.Users[fileSystem], GID: st.Groups[fileSystem]}, nil
}

// WaitingOwner reads whom the process of a container that was started for this hold runs as. A process ends, and
// another gets its pid: so it is made sure that it has the hold's name in its arguments, which comes a moment after
// Docker says that the container runs, and is the same before and after.
func (h *Hold) WaitingOwner(ctx context.Context, pid int) (Owner, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, h.bound, ErrTimeout)
	defer cancel()
	alive := Alive(pid)
	for {
		if err := alive(); err != nil {
			return Owner{}, err
		}
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			return Owner{}, fmt.Errorf("read the arguments of process %d: %w", pid, err)
		}
		if bytes.Contains(args, []byte(h.name)) {
			break
		}
		select {
		case <-ctx.Done():
			return Owner{}, fmt.Errorf("wait for the launcher: %w", context.Cause(ctx))
		case <-time.After(firstLook):
		}
	}
	who, err := OwnerOf(pid)
	if err == nil {
		err = alive()
	}
	return who, err
}

// Alive gives a function that tells whether the process that now has this pid still runs, for
// Release: nil, or why not. A zombie, and another process of the same pid, count as gone.
func Alive(pid int) func() error {
	born, err := startTime(pid)
	return func() error {
		if err != nil {
			return err
		}
		now, err := startTime(pid)
		if err == nil && now != born {
			err = fmt.Errorf("process %d is gone", pid)
		}
		return err
	}
}

// startTime is the moment of the process's start, in ticks since the machine's.
func startTime(pid int) (uint64, error) {
	for {
		now, err := proc.Read(pid)
		switch {
		case err != nil:
			return 0, fmt.Errorf("process %d is gone", pid)
		case now.Between():
			continue
		case now.Ended():
			return 0, fmt.Errorf("process %d has ended", pid)
		}
		return now.Started, nil
	}
}
