package statedir

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
	"golang.org/x/sys/unix"
)

// place is one of the mounts below the state directory.
type place struct {
	name   string
	mode   uint32
	size   func() (uint64, error) // bytes
	inodes uint64                 // 0: the kernel's default
	shared bool                   // what is mounted below it reaches the containers that it is bound into
	dirs   []string               // below it, root's, of the same mode
}

// What the file systems hold at the most. The journal is as big as the machine lets it: it has some KiB a
// task, but up to the 32 MiB that all secrets of a task may come to. The shared one has empty directories and FIFOs
// alone, which take inodes: a few for a running container, two for a command that is executed.
const (
	minJournal   = 64 << 20
	maxJournal   = 1 << 30
	journalShare = 10 // a tenth of the machine's memory, within the two
	sharedSize   = 1 << 20
	sharedInodes = 16384
)

var places = []place{
	{name: journalName, mode: 0o700, size: journalSize},
	{name: sharedName, mode: 0o711, size: func() (uint64, error) { return sharedSize, nil }, inodes: sharedInodes,
		shared: true, dirs: []string{channelName, liveName}},
}

func journalSize() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("read the machine's memory: %w", err)
	}
	return journalBound(info.Totalram * uint64(info.Unit)), nil
}

func journalBound(memory uint64) uint64 { return min(max(memory/journalShare, minJournal), maxJournal) }

// mountFlags keep what lies there from being anything but data.
const mountFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// ready reports whether the place is as it must be. It is an error if it is a mount that is not in memory.
func (p place) ready(top, dir *os.File) (bool, error) {
	mounted, err := isMount(top, dir)
	if !mounted || err != nil {
		return false, err
	}
	if err := p.checkMemory(dir); err != nil {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return false, fmt.Errorf("stat %s: %w", p.name, err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o7777 != p.mode {
		return false, nil
	}
	for _, name := range p.dirs {
		if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, unix.ENOENT) {
			return false, nil
		} else if err != nil {
			return false, fmt.Errorf("stat %s/%s: %w", p.name, name, err)
		}
		if st.Mode != unix.S_IFDIR|p.mode || int(st.Uid) != os.Geteuid() {
			return false, nil
		}
	}
	if err := p.remount(dir); err != nil {
		return false, err
	}
	if p.shared {
		// A process that was killed may have mounted it, and no more. Where it is shared, this does nothing.
		if err := unix.Mount("", beneath.PathOf(dir), "", unix.MS_SHARED, ""); err != nil {
			return false, fmt.Errorf("make %s a shared mount: %w; let the agent mount file systems (CAP_SYS_ADMIN)", p.name, err)
		}
	}
	return true, nil
}

// make makes the place as it must be: its directory is there. The caller has the lock.
func (p place) make(top *os.File) error {
	dir, err := openDir(top, p.name)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	mounted, err := isMount(top, dir)
	if err != nil {
		return err
	}
	if !mounted {
		if err := p.mount(dir); err != nil {
			return fmt.Errorf("mount a tmpfs at %s, for secrets are kept in memory alone: %w; let the agent mount file systems (CAP_SYS_ADMIN), or mount a tmpfs there yourself", p.name, err)
		}
		_ = dir.Close()
		if dir, err = openDir(top, p.name); err != nil {
			return err
		}
		if mounted, err = isMount(top, dir); err == nil && !mounted {
			err = fmt.Errorf("%s is not what a tmpfs was mounted at", p.name)
		}
		if err != nil {
			return err
		}
	}
	// An operator's mount may have been made with another owner and mode.
	if err := p.checkMemory(dir); err != nil {
		return err
	}
	if err := own(dir, p.mode); err != nil {
		return err
	}
	for _, name := range p.dirs {
		if err := makeDir(dir, name, p.mode); err != nil {
			return err
		}
		sub, err := openDir(dir, name)
		if err != nil {
			return err
		}
		err = own(sub, p.mode)
		_ = sub.Close()
		if err != nil {
			return err
		}
	}
	if ready, err := p.ready(top, dir); err != nil || ready {
		return err
	}
	return fmt.Errorf("%s was changed while it was being made", p.name)
}

// mount mounts the place's tmpfs over the directory that the descriptor is of, whatever its path leads to now.
func (p place) mount(dir *os.File) error {
	size, err := p.size()
	if err != nil {
		return err
	}
	options := fmt.Sprintf("mode=%04o,uid=%d,gid=%d,size=%d", p.mode, os.Geteuid(), os.Getegid(), size)
	if p.inodes > 0 {
		options += fmt.Sprintf(",nr_inodes=%d", p.inodes)
	}
	mount := func(options string) error {
		return unix.Mount("nomad-driver-secrets", beneath.PathOf(dir), "tmpfs", mountFlags, options)
	}
	// Kernels before 6.4 do not know noswap, and nor does one that is asked from within a user namespace.
	if err := mount(options + ",noswap"); !errors.Is(err, unix.EINVAL) {
		return err
	}
	return mount(options)
}

// remount gives the shared file system its options again: a container's root with CAP_SYS_ADMIN can change them for the
// whole node through what is bound into it.
func (p place) remount(dir *os.File) error {
	if !p.shared {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", p.name, err)
	}
	if fs.Type != unix.TMPFS_MAGIC || fs.Flags&unix.ST_RDONLY == 0 && (p.inodes == 0 || fs.Files == p.inodes) {
		return nil
	}
	size, err := p.size()
	if err != nil {
		return err
	}
	options := fmt.Sprintf("mode=%04o,size=%d", p.mode, size)
	if p.inodes > 0 {
		options += fmt.Sprintf(",nr_inodes=%d", p.inodes)
	}
	if err := unix.Mount("", beneath.PathOf(dir), "", unix.MS_REMOUNT|mountFlags, options); err != nil {
		return fmt.Errorf("give %s its mount options again, which a container has changed: %w", p.name, err)
	}
	return nil
}

// checkMemory refuses a mount that is not in memory.
func (p place) checkMemory(dir *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", p.name, err)
	}
	if fs.Type != unix.TMPFS_MAGIC && fs.Type != unix.RAMFS_MAGIC {
		return fmt.Errorf("what is mounted at %s is not in memory (file system type %#x), and secrets must never be on a disk: unmount it, and the plugin mounts a tmpfs of its own, or set state_dir to another directory", p.name, fs.Type)
	}
	return nil
}

// isMount reports whether dir, which lies in top, is a mount of its own.
func isMount(top, dir *os.File) (bool, error) {
	above, err := mountID(top)
	if err != nil {
		return false, err
	}
	id, err := mountID(dir)
	return id != above, err
}

// mountID is the kernel's number of the mount that a descriptor is in.
func mountID(f *os.File) (int, error) {
	path := fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd())
	info, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(info) {
		if value, ok := bytes.CutPrefix(line, []byte("mnt_id:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	return 0, fmt.Errorf("%s: no mnt_id in it", path)
}

func makeDir(in *os.File, name string, mode uint32) error {
	if err := unix.Mkdirat(int(in.Fd()), name, mode); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make %s: %w", name, err)
	}
	return nil
}

func openDir(in *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(in.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// own makes a directory ours, with mode.
func own(dir *os.File, mode uint32) error {
	if err := os.Chown(beneath.PathOf(dir), os.Geteuid(), os.Getegid()); err != nil {
		return fmt.Errorf("make %s root's: %w", dir.Name(), err)
	}
	if err := os.Chmod(beneath.PathOf(dir), os.FileMode(mode)); err != nil {
		return fmt.Errorf("set the mode of %s: %w", dir.Name(), err)
	}
	return nil
}
