package live

import (
	"encoding/json"
	"errors"
	"fmt"
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
	Result string    `json:"result"` // ok, unknown, stale; lost: Count lines could not be kept
	Count  int       `json:"count,omitempty"`
}

// Audit is a log of JSON lines that only root can read, bounded in size.
type Audit struct {
	path string
	max  int64

	mu   sync.Mutex
	file *os.File
	size int64
}

// OpenAudit appends to the log at path. Its directory must be root's alone.
func OpenAudit(path string) (*Audit, error) {
	a := &Audit{path: path, max: MaxAudit}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return a, a.open()
}

func (a *Audit) open() error {
	f, err := os.OpenFile(a.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		err = f.Chmod(0o600)
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("audit log %s: %w", a.path, err)
	}
	a.file, a.size = f, info.Size()
	return nil
}

// Write appends lines. A log that cannot be written is told once in the error of each call; nothing waits for it.
func (a *Audit) Write(lines ...AuditLine) error {
	var all []byte
	for _, l := range lines {
		b, err := json.Marshal(l)
		if err != nil {
			return err
		}
		all = append(append(all, b...), '\n')
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return errors.New("audit log: closed")
	}
	if a.size > 0 && a.size+int64(len(all)) > a.max {
		if err := a.rotate(); err != nil {
			return err
		}
	}
	n, err := a.file.Write(all)
	a.size += int64(n)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}

func (a *Audit) rotate() error {
	if err := os.Rename(a.path, a.path+".1"); err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	_ = a.file.Close()
	a.file = nil
	return a.open()
}

// Close ends the log.
func (a *Audit) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	err := a.file.Close()
	a.file = nil
	return err
}
