package driver

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"golang.org/x/sys/unix"
)

// logPipes holds a task's log FIFOs open for writing. Nomad's log collector reads each until its
// last writer is gone, then never again: without us it would stop at the first restart in place
// (DESIGN 9). Nothing is ever written here.
type logPipes struct {
	paths []string

	mu   sync.Mutex
	held map[string]*os.File
}

func newLogPipes(cfg *drivers.TaskConfig) *logPipes {
	return &logPipes{paths: []string{cfg.StdoutPath, cfg.StderrPath}, held: map[string]*os.File{}}
}

// hold opens what is not held yet. A path that is no FIFO (logging off) is left alone. The error is
// ENXIO where a FIFO has no reader: its logs are lost until Nomad restarts the task.
func (p *logPipes) hold() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, path := range p.paths {
		if p.held[path] != nil || !isFIFO(path) {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.held[path] = f
	}
	return errors.Join(errs...)
}

// collected reports whether somebody still reads the pipes, as far as can be told. To open a pipe
// does not tell: a log collector that has stopped keeps its end open. But it has not stopped as long as
// others than us write, and what is written does not stay.
func (p *logPipes) collected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, path := range p.paths {
		if !isFIFO(path) {
			continue
		}
		f := p.held[path]
		if f == nil || !writtenByOthers(path) {
			return false
		}
		for try := 0; unread(f) > 0; try++ {
			if try == 10 {
				return false
			}
			time.Sleep(collectAllowance / 10)
		}
	}
	return true
}

// collectAllowance is how long the log collector may take to read what was written.
const collectAllowance = time.Second

// unread is how many bytes are in a pipe.
func unread(f *os.File) int {
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

// writtenByOthers reports whether another process has a pipe open for writing.
func writtenByOthers(path string) bool {
	return slices.ContainsFunc(writers(path), func(pid int) bool { return pid != os.Getpid() })
}

// writers are the processes that have a file open for writing.
func writers(path string) (pids []int) {
	file, err := os.Stat(path)
	if err != nil {
		return nil
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return nil
	}
	for _, fd := range fds {
		link, err := os.Readlink(fd)
		if err != nil || filepath.Base(link) != filepath.Base(path) { // spares most of them the stat
			continue
		}
		if open, err := os.Stat(fd); err != nil || !os.SameFile(open, file) {
			continue
		}
		info, err := os.ReadFile(strings.Replace(fd, "/fd/", "/fdinfo/", 1))
		if err != nil || !forWriting(string(info)) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(fd, "/")[2]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// forWriting reads a file's fdinfo, whose flags are octal (proc(5)).
func forWriting(fdinfo string) bool {
	for line := range strings.Lines(fdinfo) {
		if text, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(text), 8, 64)
			return err == nil && flags&syscall.O_ACCMODE != syscall.O_RDONLY
		}
	}
	return false
}

// release lets the log collector see the end of the task's logs.
func (p *logPipes) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for path, f := range p.held {
		_ = f.Close() // nothing was written
		delete(p.held, path)
	}
}

func isFIFO(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeNamedPipe != 0
}
