package hostile

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Attacker is one that may be started once.
type Attacker struct {
	// Dirs are where FIFOs may be: secrets directories and channels, as the attacker sees them. They need not
	// be there yet.
	Dirs []string
	// Command is what it makes launchers run.
	Command []string

	attempts, renamed, removed, replaced, opened, injected atomic.Int64

	mu      sync.Mutex
	names   map[string]time.Time // of FIFOs, less -in and -out: when each was last seen
	planted map[string]bool
}

// Counts is what an attacker has done until now. An attempt is everything that it tries against one FIFO; the
// rest count what worked.
type Counts struct {
	Attempts int64
	Renamed  int64 // a FIFO or a directory
	Removed  int64
	Replaced int64 // one of its own is where a FIFO was, or could be
	Opened   int64 // a FIFO of the driver's
	Injected int64 // a launcher was told to run Command
}

// Counts gives the counts as they are now.
func (a *Attacker) Counts() Counts {
	return Counts{a.attempts.Load(), a.renamed.Load(), a.removed.Load(), a.replaced.Load(), a.opened.Load(), a.injected.Load()}
}

// Run attacks until ctx ends.
func (a *Attacker) Run(ctx context.Context) {
	a.names, a.planted = map[string]time.Time{}, map[string]bool{}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for ctx.Err() == nil {
			a.readArguments()
			time.Sleep(5 * time.Millisecond)
		}
	})
	for ctx.Err() == nil {
		for _, dir := range a.Dirs {
			a.readDirectory(dir)
		}
		names := a.current()
		for _, name := range names {
			for _, dir := range a.Dirs {
				a.try(ctx, &wg, dir, name)
			}
		}
		if len(names) == 0 {
			time.Sleep(100 * time.Microsecond)
		}
	}
}

var fifoName = regexp.MustCompile(`\.launch-[A-Z2-7]+`)

// readArguments finds the FIFOs' names in the arguments of processes.
func (a *Attacker) readArguments() {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		args, _ := os.ReadFile(path)
		if bytes.Contains(args, []byte(".launch-")) {
			a.see(fifoName.FindAllString(string(args), -1))
		}
	}
}

func (a *Attacker) readDirectory(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	for _, name := range names {
		a.see(fifoName.FindAllString(name, -1))
	}
}

func (a *Attacker) see(names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range names {
		a.names[name] = time.Now()
	}
}

// current are the names that were seen within the last moment.
func (a *Attacker) current() (names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, seen := range a.names {
		if time.Since(seen) > 200*time.Millisecond {
			delete(a.names, name)
			continue
		}
		names = append(names, name)
	}
	return names
}

// try does all it can to one start's FIFOs in one directory.
func (a *Attacker) try(ctx context.Context, wg *sync.WaitGroup, dir, name string) {
	pair := filepath.Join(dir, name)
	a.mu.Lock()
	ours := a.planted[pair]
	a.mu.Unlock()
	if ours {
		return
	}
	var made [2]bool
	for i, path := range []string{pair + "-in", pair + "-out"} {
		a.attempts.Add(1)
		if a.isAttackers(path) {
			continue
		}
		for _, flag := range []int{unix.O_RDWR, unix.O_RDONLY} {
			if fd, err := unix.Open(path, flag|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
				a.opened.Add(1)
				_ = unix.Close(fd)
				break
			}
		}
		_ = unix.Chmod(path, 0o666)
		if unix.Link(path, path+"-linked") == nil {
			a.renamed.Add(1)
		}
		if unix.Rename(path, path+"-moved") == nil {
			a.renamed.Add(1)
		} else if unix.Unlink(path) == nil {
			a.removed.Add(1)
		}
		made[i] = unix.Mkfifo(path, 0o666) == nil
	}
	if unix.Rename(dir, dir+"-moved") == nil {
		a.renamed.Add(1)
	}
	if made[0] && made[1] {
		a.replaced.Add(1)
		a.mu.Lock()
		a.planted[pair] = true
		a.mu.Unlock()
		wg.Go(func() { a.inject(ctx, pair) })
	}
}

// isAttackers reports whether an attacker has made what is there, be it another one: it can be read by all.
func (a *Attacker) isAttackers(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&0o044 != 0
}
