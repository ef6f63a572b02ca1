package live

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// MaxAudit is the size at which an audit log begins anew. The one before is kept beside it.
const MaxAudit = 16 << 20

// AuditLine is one line of the audit log: who opened what. It has no value.
type AuditLine struct {
	Time   time.Time `json:"time"`
	Alloc  string    `json:"alloc,omitempty"`
	Task   string    `json:"task,omitempty"`
	Secret string    `json:"secret,omitempty"`
	Volume string    `json:"volume,omitempty"`
	Field  string    `json:"field,omitempty"`
	UID    uint32    `json:"uid"`
	PID    uint32    `json:"pid"`
	Result string    `json:"result"` // ok, unknown, stale, full; lost: Count lines could not be kept
	Count  int       `json:"count,omitempty"`
}

// Audit is a log of JSON lines that only root can read, bounded in size.
type Audit struct {
	path string
	max  int64

	mu     sync.Mutex // guards the rest
	file   *os.File   // nil: it could not be opened again
	size   int64
	lost   int  // lines since it cannot be written
	torn   bool // a line is there in part
	closed bool
}

// OpenAudit appends to the log at path. Its directory must be root's alone.
func OpenAudit(path string) (*Audit, error) {
	a := &Audit{path: path, max: MaxAudit}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := a.open(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return a, nil
}

func (a *Audit) open() error {
	f, err := os.OpenFile(a.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		err = f.Chmod(0o600)
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("%s: %w", a.path, err)
	}
	a.file, a.size = f, info.Size()
	return nil
}

// Write appends lines. An error is told once, for a full disk may fail many calls: those that are lost are counted in the first
// line after it.
func (a *Audit) Write(lines ...AuditLine) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return errors.New("audit log: closed")
	}
	before := a.lost
	if before > 0 {
		lines = append([]AuditLine{{Time: time.Now().UTC(), Result: "lost", Count: before}}, lines...)
	}
	if err := a.append(lines); err != nil {
		a.lost = 0
		for _, l := range lines {
			a.lost += max(1, l.Count)
		}
		if before == 0 {
			return fmt.Errorf("audit log: %w", err)
		}
		return nil
	}
	a.lost = 0
	return nil
}

func (a *Audit) append(lines []AuditLine) error {
	var all []byte
	for _, l := range lines {
		b, err := json.Marshal(l)
		if err != nil {
			return err
		}
		all = append(append(all, b...), '\n')
	}
	if a.file == nil {
		if err := a.open(); err != nil {
			return err
		}
	}
	if a.size > 0 && a.size+int64(len(all)) > a.max {
		if err := a.rotate(); err != nil {
			return err
		}
	}
	if a.torn {
		all = append([]byte{'\n'}, all...)
	}
	n, err := a.file.Write(all)
	a.size += int64(n)
	if n > 0 {
		a.torn = n < len(all)
	}
	return err
}

func (a *Audit) rotate() error {
	// Somebody may have moved it away, as programs do that rotate logs.
	if err := os.Rename(a.path, a.path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = a.file.Close()
	a.file, a.torn = nil, false
	return a.open()
}

// Close ends the log.
func (a *Audit) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	if a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	return err
}
