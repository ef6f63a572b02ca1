package launcher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/rootonly"
)

// Files are what one container has bound of the host's disk, and no other has: a container's root with CAP_SYS_ADMIN
// can make writable what is bound read-only. So what it writes is its own alone.
type Files struct {
	Launcher string // the launcher, for ContainerPath
	Empty    string // an empty file, for what the container must not read
}

// containersDir is where they are, in the launcher's directory. Of each channel whose container has some there is a
// directory of the channel's name, with these in it.
const (
	containersDir = "containers"
	launcherName  = "launcher"
	emptyName     = "empty"
	channelLink   = "channel" // a link to the channel, for SweepFiles: it tells whose they are
)

// FilesFor makes the files for a new container that has the channel. Those of an earlier one go.
//
// They are copies, of some 2 MB each: what is shared with nobody takes room. Where the file system can, they
// have their blocks in common until somebody writes to one. They need not outlive the machine, and are not synced.
func (i *Installer) FilesFor(c Channel) (files Files, err error) {
	err = i.inFirst(func(dir string) error {
		program, err := i.installIn(dir)
		if err != nil {
			return err
		}
		if files, err = makeFiles(program, c); err != nil {
			return fmt.Errorf("make the files of a container: %w", err)
		}
		return nil
	})
	return files, err
}

func makeFiles(program string, c Channel) (_ Files, err error) {
	parent := filepath.Join(filepath.Dir(program), containersDir)
	checked, err := rootonly.Make(parent, 0o711)
	if err != nil {
		return Files{}, err
	}
	defer checked.Close()
	root, err := os.OpenRoot(parent)
	if err != nil {
		return Files{}, err
	}
	defer root.Close()
	if err := root.RemoveAll(c.name); err != nil {
		return Files{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.RemoveAll(c.name))
		}
	}()
	if err := root.Mkdir(c.name, 0o711); err != nil {
		return Files{}, err
	}
	if err := root.Chmod(c.name, 0o711); err != nil { // whatever the umask
		return Files{}, err
	}
	if err := root.Symlink(c.Path(), filepath.Join(c.name, channelLink)); err != nil {
		return Files{}, err
	}
	if err := makeFile(root, filepath.Join(c.name, launcherName), 0o555, func(f *os.File) error { return copyProgram(f, program) }); err != nil {
		return Files{}, err
	}
	if err := makeFile(root, filepath.Join(c.name, emptyName), 0o444, func(*os.File) error { return nil }); err != nil {
		return Files{}, err
	}
	dir := filepath.Join(parent, c.name)
	return Files{Launcher: filepath.Join(dir, launcherName), Empty: filepath.Join(dir, emptyName)}, nil
}

func makeFile(root *os.Root, name string, mode fs.FileMode, fill func(*os.File) error) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Chmod(mode), f.Close())
}

// copyProgram fills f with the launcher, if it can with the blocks of the one that is installed.
func copyProgram(f *os.File, program string) error {
	if installed, err := os.Open(program); err == nil {
		defer installed.Close()
		if unix.IoctlFileClone(int(f.Fd()), int(installed.Fd())) == nil {
			return nil
		}
	}
	_, err := f.Write(binary)
	return err
}

// RemoveFiles removes the files of a channel's container, if it has some. A container that runs keeps what it has bound.
func (i *Installer) RemoveFiles(c Channel) error {
	var errs []error
	for _, root := range i.containers() {
		if err := root.RemoveAll(c.name); err != nil {
			errs = append(errs, fmt.Errorf("remove the files of a container: %w", err))
		}
		_ = root.Close()
	}
	return errors.Join(errs...)
}

// strangersAge is how old files with a channel elsewhere are before SweepFiles removes them.
const strangersAge = 24 * time.Hour

// SweepFiles removes the files that a plugin has left that was killed. Those of a channel below parent go with the task,
// by what there says, as SweepChannels has it. Others are of a state directory that is not in use any more, or another agent's:
// they go if their channel is not there, and they are old enough that no container is about to be made with them.
func (i *Installer) SweepFiles(parent string, there func(allocID, task string) bool) error {
	var errs []error
	for _, root := range i.containers() {
		entries, err := fs.ReadDir(root.FS(), ".")
		if err != nil {
			errs = append(errs, fmt.Errorf("look for files of containers that were left: %w", err))
		}
		for _, e := range entries {
			if filesLeft(root, e, parent, there) {
				errs = append(errs, root.RemoveAll(e.Name()))
			}
		}
		_ = root.Close()
	}
	return errors.Join(errs...)
}

func filesLeft(root *os.Root, e fs.DirEntry, parent string, there func(allocID, task string) bool) bool {
	name := e.Name()
	channel, err := root.Readlink(filepath.Join(name, channelLink))
	if err == nil && channel == filepath.Join(parent, name) {
		if allocID, task, ok := splitName(name); ok {
			return !there(allocID, task)
		} // of a task that a hash stands for nobody knows whether it is there: they go with the channel, like a stranger's
	}
	if err == nil {
		_, err = os.Lstat(channel)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	info, err := e.Info()
	return err == nil && time.Since(info.ModTime()) > strangersAge
}

// containers opens the directories that may have files of containers. One that others than root can change has none.
func (i *Installer) containers() (roots []*os.Root) {
	for _, dir := range i.dirs() {
		path := filepath.Join(dir, containersDir)
		checked, err := rootonly.Open(path)
		if err != nil {
			continue
		}
		if root, err := os.OpenRoot(path); err == nil {
			roots = append(roots, root)
		}
		_ = checked.Close()
	}
	return roots
}
