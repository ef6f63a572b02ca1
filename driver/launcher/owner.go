package launcher

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Owner is a process's user and group, as the host sees them.
type Owner struct{ UID, GID int }

// OwnerOf reads whom a process runs as. A process held at the launcher has the app's user already,
// whichever way it was named, and the kernel gives its ids as the reader's user namespace sees them,
// which makes them right under userns-remap.
//
// A container's first process may change its user later: for an exec, take the owner of the exec's
// own waiting process, or the one read when the container was held.
func OwnerOf(pid int) (uid, gid int, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read the owner of process %d: %w", pid, err)
	}
	uid, gid = -1, -1
	for line := range strings.Lines(string(status)) {
		// Real, effective, saved and file system id. Files are opened with the last, which follows
		// the effective one.
		var real int
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			_, err = fmt.Sscan(rest, &real, &uid)
		} else if rest, ok := strings.CutPrefix(line, "Gid:"); ok {
			_, err = fmt.Sscan(rest, &real, &gid)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read the owner of process %d: %w", pid, err)
		}
	}
	if uid < 0 || gid < 0 {
		return 0, 0, fmt.Errorf("read the owner of process %d: no ids in its status", pid)
	}
	return uid, gid, nil
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

// startTime is the moment of the process's start, in ticks since boot, as /proc prints it.
func startTime(pid int) (string, error) {
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return "", fmt.Errorf("process %d is gone", pid)
		}
		// The command's name, in parentheses, may contain anything; the fields after it are the third on.
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		if len(fields) < 20 {
			return "", errors.New("/proc/PID/stat: too few fields")
		}
		state, threads, started := fields[0][0], string(fields[17]), string(fields[19])
		// A program that calls exec in another thread than its first, as a Go program does, leaves the
		// first as a zombie until the other takes its place: the runtime does so to become the launcher,
		// and the launcher to become the app. So only a zombie without other threads has ended.
		if state != 'Z' && state != 'X' || threads != "0" && threads != "1" {
			return started, nil
		}
		if threads == "1" {
			return "", fmt.Errorf("process %d has ended", pid)
		}
		// This is a thread that was just replaced, or collected by its parent: the next look tells.
	}
}
