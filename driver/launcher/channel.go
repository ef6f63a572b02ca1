package launcher

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ContainerChannel is where a task's channel is bound into its container, read-only. It is not below the
// secrets directory, which anybody may write to.
const ContainerChannel = "/.nomad-secrets-channel"

// channelMode lets a task's user through to the FIFOs whose names it is told, and do nothing else there.
const channelMode = 0o711

// ErrNoRoom means that the file system that the FIFOs are on has as many files as it may. It has room again when
// commands that were being started have started, and when tasks end.
var ErrNoRoom = errors.New("the state directory's file system for the launchers' channels is full")

// Channel is one task's directory for FIFOs, by which the launcher gets what it is to run. It is root's, on
// the host, where no task can change what its path leads to, and there for as long as the task.
type Channel struct{ parent, name string }

// ChannelOf is a task's channel below parent, a directory that is root's.
func ChannelOf(parent, allocID, task string) Channel {
	return Channel{parent: parent, name: channelName(allocID, task)}
}

// Path is the directory, as the host has it.
func (c Channel) Path() string { return filepath.Join(c.parent, c.name) }

// Make makes the directory. What an earlier process of the task has left there goes.
func (c Channel) Make() error {
	if err := c.Remove(); err != nil {
		return err
	}
	return c.Ensure()
}

// Ensure makes the directory if it is not there.
func (c Channel) Ensure() error {
	parent, err := os.OpenRoot(c.parent)
	if err != nil {
		return c.error("make", err)
	}
	defer parent.Close()
	if err := parent.Mkdir(c.name, channelMode); err == nil {
		err = parent.Chmod(c.name, channelMode) // whatever the umask
		return c.error("make", err)
	} else if !errors.Is(err, fs.ErrExist) {
		return c.error("make", err)
	}
	info, err := parent.Lstat(c.name)
	if err != nil {
		return c.error("look at", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() {
		return c.error("use", errors.New("something else is in its place"))
	}
	if info.Mode().Perm() != channelMode {
		return c.error("make", parent.Chmod(c.name, channelMode))
	}
	return nil
}

// Remove takes the directory away, with what is in it.
func (c Channel) Remove() error {
	parent, err := os.OpenRoot(c.parent)
	if err != nil {
		return c.error("remove", err)
	}
	defer parent.Close()
	return c.error("remove", parent.RemoveAll(c.name))
}

func (c Channel) error(operation string, err error) error {
	if err == nil {
		return nil
	}
	return noRoom(fmt.Errorf("%s the task's channel %s: %w", operation, c.Path(), err))
}

// noRoom makes an error of a full file system an ErrNoRoom.
func noRoom(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EROFS) { // a container's root may have made it read-only
		return fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	return err
}

// allocIDLen is the length of Nomad's ids.
const allocIDLen = 36

// channelName makes a path element of an allocation's id and a task's name. Different ones give different
// elements, and none leads elsewhere: an id has one length, and names that are no plain path elements give a hash.
func channelName(allocID, task string) string {
	if len(allocID) == allocIDLen && plain(allocID) && plain(task) {
		return allocID + "-" + task
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s %s", len(allocID), allocID, task))
	return hashed + hex.EncodeToString(sum[:])
}

// splitName gives the allocation's id and the task's name that channelName made a name of, if it is no hash.
func splitName(name string) (allocID, task string, ok bool) {
	if strings.HasPrefix(name, hashed) || len(name) <= allocIDLen+1 {
		return "", "", false
	}
	return name[:allocIDLen], name[allocIDLen+1:], true
}

// hashed begins the names that are hashes, and no other.
const hashed = "~"

// plain reports whether a name is a path element as it is. The journal has these as they are, too.
func plain(name string) bool {
	return name != "" && len(name) <= 128 && name[0] != '.' && !strings.ContainsFunc(name, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
	})
}

// SweepChannels removes the channels below parent whose task is not there any more, by what there says: a
// plugin that is killed at the end of a task leaves one. There may be channels made meanwhile: there is asked
// only of those that were there before.
func SweepChannels(parent string, there func(allocID, task string) bool) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("look for channels that were left: %w", err)
	}
	var errs []error
	for _, e := range entries {
		allocID, task, ok := splitName(e.Name())
		if !ok || there(allocID, task) {
			continue // of a hash nobody knows the task; it goes at that task's next start
		}
		errs = append(errs, Channel{parent: parent, name: e.Name()}.Remove())
	}
	return errors.Join(errs...)
}
