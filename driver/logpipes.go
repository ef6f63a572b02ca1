package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/guard"
)

// logPipes holds a task's log FIFOs open for writing. Nomad's log collector reads each until its
// last writer is gone, then never again: without us it would stop at the first restart in place
// (docs/nomad.md). Nothing is ever written here.
//
// The FIFOs are in a directory that the task can write to. Each is opened once, and checked, and from then on
// everybody who needs it gets what was opened: we by the descriptor, and the wrapped driver's helpers by a
// path that only root can change.
type logPipes struct {
	allocDir string
	paths    []string

	mu      sync.Mutex
	fifos   map[string]*os.File // O_PATH
	writers map[string]*os.File
	lent    map[string]string // the paths for the wrapped driver
	pins    *guard.Pins       // of what is lent; kept, for what a task has removed cannot be pinned again
	letGo   func(*guard.Pins) // takes them over at the end
	ended   bool              // released: nothing is lent any more
}

func newLogPipes(cfg *drivers.TaskConfig) *logPipes {
	p := &logPipes{allocDir: cfg.AllocDir, fifos: map[string]*os.File{}, writers: map[string]*os.File{}, lent: map[string]string{}}
	for _, path := range []string{cfg.StdoutPath, cfg.StderrPath} {
		if path != "" && path != os.DevNull { // logging is off
			p.paths = append(p.paths, path)
		}
	}
	return p
}

// fifo opens a FIFO, once.
func (p *logPipes) fifo(path string) (*os.File, error) {
	if f := p.fifos[path]; f != nil {
		return f, nil
	}
	f, err := guard.OpenFIFO(p.allocDir, path)
	if err != nil {
		return nil, err
	}
	p.fifos[path] = f
	return f, nil
}

// hold opens what is not held yet. A path where nothing is is left alone. The error is
// ENXIO where a FIFO has no reader: its logs are lost until Nomad restarts the task.
func (p *logPipes) hold() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, path := range p.paths {
		if p.writers[path] != nil {
			continue
		}
		fifo, err := p.fifo(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f, err := guard.OpenWriter(fifo)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.writers[path] = f
	}
	return errors.Join(errs...)
}

// lend gives a config for the wrapped driver paths of the FIFOs that only root can change. They hold until the
// pipes are released, and then until letGo releases the pins.
func (p *logPipes) lend(cfg *drivers.TaskConfig, root string, letGo func(*guard.Pins)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return errors.New("the task's logs have ended")
	}
	p.letGo = letGo
	for _, path := range p.paths {
		if p.lent[path] != "" {
			continue
		}
		fifo, err := p.fifo(path)
		if err != nil {
			return err
		}
		if p.pins == nil {
			if p.pins, err = guard.NewPins(root); err != nil {
				return fmt.Errorf("prepare the task's logs: %w", err)
			}
		}
		if p.lent[path], err = p.pins.Add(fifo); err != nil {
			return err
		}
	}
	for _, path := range []*string{&cfg.StdoutPath, &cfg.StderrPath} {
		if lent := p.lent[*path]; lent != "" {
			*path = lent
		}
	}
	return nil
}

// collected reports whether somebody still reads the pipes, as far as can be told. To open a pipe
// does not tell: a log collector that has stopped keeps its end open. But it has not stopped as long as
// others than us write, and what is written does not stay.
func (p *logPipes) collected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, path := range p.paths {
		fifo, err := p.fifo(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		f := p.writers[path]
		if err != nil || f == nil || !writtenByOthers(fifo) {
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

// release lets the log collector see the end of the task's logs.
func (p *logPipes) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for _, files := range []map[string]*os.File{p.writers, p.fifos} {
		for path, f := range files {
			_ = f.Close() // nothing was written
			delete(files, path)
		}
	}
	if p.pins == nil {
		return
	}
	p.letGo(p.pins)
	p.pins = nil
	clear(p.lent)
}
