package launcher

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// labels guards what ContainerLabels writes.
var labels sync.Mutex

// LetIn lets every container use path, a file or a directory with all in it, on a host with SELinux, as
// Docker's option "z" does; elsewhere it does nothing. A file system that has no labels is left as it is, as
// by Docker.
//
// The label is that of what containers may write to (lxc_contexts(5): file), also for the launcher: the
// reference policy, unlike Fedora's, lets no container begin with a file of images' layers (ro_file). So
// what is not to be written must be bound read-only.
func LetIn(path string) error {
	if !selinux.GetEnabled() {
		return nil
	}
	label, err := sharedLabel()
	if err != nil || label == "" {
		return err
	}
	if err := setAttr(path, "security.selinux", label); err != nil && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("label %s for containers: %w", path, err)
	}
	return nil
}

// sharedLabel is the label of files that all containers may use; empty where containers have none.
func sharedLabel() (string, error) {
	labels.Lock()
	defer labels.Unlock()
	process, file := selinux.ContainerLabels()
	defer selinux.ReleaseLabel(process)
	if file == "" {
		return "", nil
	}
	context, err := selinux.NewContext(file)
	if err != nil {
		return "", fmt.Errorf("read the label of containers' files: %w", err)
	}
	context["level"] = "s0"
	return context.Get(), nil
}

// What of a directory is labelled. It may be a task's, who may make it as large as it likes.
const (
	maxLabelled = 4096
	maxDepth    = 32
	namesAtOnce = 256
)

// setAttr sets an extended attribute of a file, or of a directory and what is in it. A task may exchange what is in
// there at any moment: so each directory is opened in the one above it, and no link is followed.
func setAttr(path, attr, value string) error {
	file, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Setxattr(beneath.PathOf(file), attr, []byte(value), 0); err != nil {
		return err
	}
	left := maxLabelled
	return setAttrBelow(int(file.Fd()), ".", attr, value, maxDepth, &left)
}

// setAttrBelow does it for what is in a directory. What has gone meanwhile, or is no directory, is none.
func setAttrBelow(parent int, name, attr, value string, depth int, left *int) error {
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP):
		return nil
	case err != nil:
		return err
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	for depth > 0 && *left > 0 {
		names, err := dir.Readdirnames(min(namesAtOnce, *left))
		*left -= len(names)
		for _, each := range names {
			// The path leads to this very directory, and what it has by this name is not followed.
			err := unix.Lsetxattr(beneath.PathOf(dir)+"/"+each, attr, []byte(value), 0)
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			if err == nil {
				err = setAttrBelow(fd, each, attr, value, depth-1, left)
			}
			if err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}
