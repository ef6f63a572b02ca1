package guard

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
	"golang.org/x/sys/unix"
)

// OpenFIFO opens a task's log FIFO (O_PATH), as Nomad made it: no symlink on the way, a FIFO, with one name,
// owned by whom the agent and we run as. The directories on the way are the task's to write to.
func OpenFIFO(allocDir, path string) (*os.File, error) {
	rel, err := filepath.Rel(allocDir, path)
	if err != nil {
		return nil, fmt.Errorf("log FIFO %s: %w", path, err)
	}
	file, err := openBelow(allocDir, rel)
	if err != nil {
		return nil, fmt.Errorf("log FIFO: %w", err)
	}
	if err := checkFIFO(file); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("log FIFO %s: %w: something else than Nomad put it there", path, err)
	}
	return file, nil
}

func checkFIFO(file *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFIFO:
		return fmt.Errorf("it is no FIFO")
	case st.Nlink != 1:
		return fmt.Errorf("it has %d names", st.Nlink)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("it is owned by user %d", st.Uid)
	}
	return nil
}

// OpenWriter opens a FIFO that OpenFIFO has opened for writing. The error is ENXIO if nobody reads it.
func OpenWriter(fifo *os.File) (*os.File, error) {
	return os.OpenFile(beneath.PathOf(fifo), os.O_WRONLY|unix.O_NONBLOCK, 0)
}

// LogDir opens an allocation's alloc/logs (O_PATH): a directory, and no symlink on the way.
func LogDir(allocDir string) (*os.File, error) {
	dir, err := openBelow(allocDir, logDir)
	if err != nil {
		return nil, fmt.Errorf("the allocation's log directory: %w", err)
	}
	if err := isDir(dir); err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("the allocation's log directory: %w", err)
	}
	return dir, nil
}

// sharedDir is what all tasks of an allocation share, and logDir where Nomad has its logs and log FIFOs.
const (
	sharedDir = "alloc"
	logDir    = sharedDir + "/logs"
)

func isDir(file *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("%s is no directory: something else than Nomad put it there", file.Name())
	}
	return nil
}
