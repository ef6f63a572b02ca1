package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/rootonly"
)

// checkStateDir makes stateDir where it is missing and refuses one that somebody else could write
// to or replace: tokens rest in it, and what it says is done as root. A mode that lets others
// in is put right, if the directory is ours.
func checkStateDir(stateDir string) error {
	if !filepath.IsAbs(stateDir) {
		return fmt.Errorf("state directory %s: not an absolute path", stateDir)
	}
	above, err := rootonly.Make(filepath.Dir(stateDir), 0o700)
	if err != nil {
		return fmt.Errorf("state directory %s: %w", stateDir, err)
	}
	defer above.Close()
	if err := makeOwnDir(stateDir); err != nil {
		return fmt.Errorf("state directory %w", err)
	}
	return nil
}

// checkOwnDir refuses what is not a directory of ours, and closes one to all others.
func checkOwnDir(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s: not a directory: %w", dir, errNotOurs)
	}
	if uid := ownerOf(info); uid != os.Geteuid() {
		return fmt.Errorf("%s: owned by user %d: %w", dir, uid, errNotOurs)
	}
	if info.Mode().Perm() != 0o700 {
		return os.Chmod(dir, 0o700)
	}
	return nil
}

func ownerOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// makeTaskDir makes a task's directory and those above it. Again, when one of them is gone on the
// way: the end of another task of the alloc removes the alloc's directory while that is empty.
func makeTaskDir(stateDir, dir string) error {
	for {
		err := checkStateDir(stateDir)
		if err == nil {
			err = makeOwnDir(filepath.Dir(dir))
		}
		if err == nil {
			err = makeOwnDir(dir)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

func makeOwnDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return checkOwnDir(dir)
}

// removeTaskDir removes a task's directory, and the alloc's if it was the last one there.
func removeTaskDir(dir string) error {
	if err := removeJournalDir(dir); err != nil {
		return err
	}
	removeAllocDir(dir)
	return nil
}

// removeJournalDir removes a journal, the entry first: without it nothing else counts.
func removeJournalDir(dir string) error {
	// What was put in a directory's place is removed, and not looked through.
	if info, err := os.Lstat(dir); err == nil && info.IsDir() {
		if err := removeFiles(dir, entryFile); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// removeAllocDir removes the directory above a task's, if that was the alloc's last.
func removeAllocDir(taskDir string) { _ = os.Remove(filepath.Dir(taskDir)) }
