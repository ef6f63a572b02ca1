// Package proc tells processes apart, and whether one has ended.
package proc

import (
	"fmt"

	"github.com/prometheus/procfs"
)

// Stat is a process at one moment.
type Stat struct {
	Parent  int
	Started uint64 // in ticks since the machine's start: with its pid it is one process's own
	state   string
	threads int
}

// Read looks at a process.
func Read(pid int) (Stat, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return Stat{}, fmt.Errorf("process %d: %w", pid, err)
	}
	s, err := p.Stat()
	if err != nil {
		return Stat{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return Stat{Parent: s.PPID, Started: s.Starttime, state: s.State, threads: s.NumThreads}, nil
}

// dead is of a process, or a first thread, that only waits to be collected.
func (s Stat) dead() bool { return s.state == "Z" || s.state == "X" }

// Ended reports whether the process only waits to be collected by its parent. One whose first thread has ended before
// others has not.
func (s Stat) Ended() bool { return s.dead() && s.threads <= 1 }

// Between reports whether it cannot be told yet whether the process has ended. A program that calls exec in another
// thread than its first, as a Go program does, leaves the first as a zombie until the other takes its place: the runtime
// does so to become the launcher, and the launcher to become the app. The next look tells.
func (s Stat) Between() bool { return s.dead() && s.threads == 0 }
