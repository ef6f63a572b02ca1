package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/nomad/plugins/drivers"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
)

// secretsSize is the size in MiB of a secrets directory that we mount. The one that the job names (resources {
// secrets = … }) does not reach a driver, but Nomad takes none above the task's memory, and what is not used costs
// nothing. Without any resources it is Nomad's own default.
func secretsSize(cfg *drivers.TaskConfig) int64 {
	if r := cfg.Resources; r != nil && r.NomadResources != nil && r.NomadResources.Memory.MemoryMB > 0 {
		return r.NomadResources.Memory.MemoryMB
	}
	return 1
}

// mountSecrets mounts a tmpfs as Nomad does: its pages are not swapped out, where the kernel has that.
func mountSecrets(target string, size int64) error {
	options := fmt.Sprintf("size=%dm", size)
	if unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOEXEC, options+",noswap") == nil {
		return nil
	}
	return unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOEXEC, options)
}

// ensureTmpfs makes sure that the task's secrets directory is in memory (L3). Nomad mounts it so,
// but a reboot of the host undoes the mount, and Nomad does not look again.
//
// The task directory is its tasks', who may have put a symlink in the place of a directory that is no
// mount: none is followed, for root would mount over what it points to.
func ensureTmpfs(cfg *drivers.TaskConfig) error {
	dir, err := openSecretsDir(cfg)
	if err != nil {
		return fmt.Errorf("look at the task's secrets directory: %w", err)
	}
	defer dir.Close()
	inMemory, err := onTmpfs(dir)
	if inMemory || err != nil {
		return err
	}
	if err := mountSecrets(beneath.PathOf(dir), secretsSize(cfg)); err != nil {
		return fmt.Errorf("the task's secrets directory is not in memory, and a tmpfs cannot be mounted there: %w", err)
	}
	mounted, err := openSecretsDir(cfg)
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

func openSecretsDir(cfg *drivers.TaskConfig) (*os.File, error) {
	taskDir, name := filepath.Split(cfg.TaskDir().SecretsDir)
	return beneath.OpenIn(filepath.Clean(taskDir), name, unix.O_PATH|unix.O_DIRECTORY)
}

func onTmpfs(dir *os.File) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return false, fmt.Errorf("look at the task's secrets directory: %w", err)
	}
	return fs.Type == unix.TMPFS_MAGIC, nil
}
