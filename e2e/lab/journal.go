package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// journalFiles are the files in the plugin's state directory that are an allocation's, by their name
// or their content: what is pending has a name of its own.
func journalFiles(agent *harness.Agent, alloc *harness.Alloc) (found []string, err error) {
	err = filepath.WalkDir(agent.JournalDir(), func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile, as it should be
		}
		if err != nil {
			return err
		}
		var content []byte
		if entry.Type().IsRegular() {
			if content, err = os.ReadFile(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if strings.Contains(path, alloc.ID) || strings.Contains(string(content), alloc.ID) {
			found = append(found, path)
		}
		return nil
	})
	return found, err
}

// NoJournal waits until the plugin has written down nothing of an allocation any more: its journal is
// gone, and no revocation is pending.
func (l *Lab) NoJournal(alloc *harness.Alloc) {
	l.T.Helper()
	l.Until("the journal of "+alloc.ID+" to be gone", func() error {
		left, err := journalFiles(l.Agent, alloc)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("there are %v", left)
		}
		return err
	})
}

// JournalEmpty asserts that the plugin has forgotten every task, and has no revocation pending.
func (l *Lab) JournalEmpty() {
	l.T.Helper()
	l.Until("the journal to be empty", func() error {
		var files []string
		err := filepath.WalkDir(l.Agent.JournalDir(), func(path string, entry os.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				files = append(files, path)
			}
			return nil
		})
		if err == nil && len(files) > 0 {
			err = fmt.Errorf("there are %v", files)
		}
		return err
	})
}
