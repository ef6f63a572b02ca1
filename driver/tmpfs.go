package driver

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// secretsOptions is what Nomad mounts a task's secrets directory with where the job names no size.
// The size that a job does name does not reach a driver.
const secretsOptions = "size=1m"

// ensureTmpfs makes sure that the task's secrets directory is in memory (L3). Nomad mounts it so,
// but a reboot of the host undoes the mount, and Nomad does not look again.
//
// The task directory is its tasks', who may have put a symlink in the place of a directory that is no
// mount: none is followed, for root would mount over what it points to.
func ensureTmpfs(cfg *drivers.TaskConfig) error {
	path := cfg.TaskDir().SecretsDir
	dir, err := openDir(path)
	if err != nil {
		return fmt.Errorf("look at the task's secrets directory: %w", err)
	}
	defer dir.Close()
	inMemory, err := onTmpfs(dir)
	if inMemory || err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), "tmpfs", unix.MS_NOEXEC, secretsOptions); err != nil {
		return fmt.Errorf("the task's secrets directory is not in memory, and a tmpfs cannot be mounted there: %w", err)
	}
	mounted, err := openDir(path)
	if err != nil {
		return fmt.Errorf("look at the task's secrets directory: %w", err)
	}
	defer mounted.Close()
	inMemory, err = onTmpfs(mounted)
	if err == nil && !inMemory {
		err = errors.New("the task's secrets directory was replaced while a tmpfs was mounted there")
	}
	return err
}

func openDir(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

func onTmpfs(dir *os.File) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return false, fmt.Errorf("look at the task's secrets directory: %w", err)
	}
	return fs.Type == unix.TMPFS_MAGIC, nil
}
