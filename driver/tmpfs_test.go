package driver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// taskOnDisk is a task whose directories are as after a reboot: there, and on disk.
func taskOnDisk(t *testing.T) (cfg *drivers.TaskConfig, secretsDir string) {
	t.Helper()
	// Not t.TempDir, which may be in memory itself.
	dir, err := os.MkdirTemp("/var/tmp", "")
	must.NoError(t, err)
	cfg = &drivers.TaskConfig{ID: "alloc/web/1", Name: "web", AllocID: "alloc", AllocDir: dir}
	secretsDir = cfg.TaskDir().SecretsDir
	must.NoError(t, os.MkdirAll(secretsDir, 0o700))
	t.Cleanup(func() {
		for unix.Unmount(secretsDir, unix.UMOUNT_NOFOLLOW) == nil {
		}
		must.NoError(t, os.RemoveAll(dir))
	})
	return cfg, secretsDir
}

func fsType(t *testing.T, path string) int64 {
	t.Helper()
	var fs unix.Statfs_t
	must.NoError(t, unix.Statfs(path, &fs))
	return fs.Type
}

// A reboot of the host undoes Nomad's mount, and secrets must not get on disk for it (L3).
func TestSecretsDirIsMadeTmpfs(t *testing.T) {
	cfg, dir := taskOnDisk(t)
	must.NotEq(t, unix.TMPFS_MAGIC, fsType(t, dir), must.Sprint("this test needs /var/tmp on a disk"))
	must.NoError(t, ensureTmpfs(cfg))
	must.Eq(t, unix.TMPFS_MAGIC, fsType(t, dir))

	// One that is there is left alone, with what is in it.
	must.NoError(t, os.WriteFile(filepath.Join(dir, "vault_token"), nil, 0o600))
	must.NoError(t, ensureTmpfs(cfg))
	_, err := os.Stat(filepath.Join(dir, "vault_token"))
	must.NoError(t, err)
	must.NoError(t, unix.Unmount(dir, 0))
	must.NotEq(t, unix.TMPFS_MAGIC, fsType(t, dir), must.Sprint("mounted twice"))
}

// After a reboot there is room for what the job's own size allowed, and nothing of it is swapped out.
func TestSecretsDirHasTheJobsRoom(t *testing.T) {
	cfg, dir := taskOnDisk(t)
	cfg.Resources = &drivers.Resources{NomadResources: &structs.AllocatedTaskResources{Memory: structs.AllocatedMemoryResources{MemoryMB: 64}}}
	must.NoError(t, ensureTmpfs(cfg))
	files, err := taskdir.OpenPublisher(dir)
	must.NoError(t, err)
	defer files.Close()
	set := &secrets.Set{Files: []secrets.RenderedFile{{Path: "large", Perms: 0o400, Data: secrets.TextValue(strings.Repeat("x", 700<<10))}}}
	must.NoError(t, files.Publish(set, 0, 0))

	probe := filepath.Join(t.TempDir(), "probe")
	must.NoError(t, os.Mkdir(probe, 0o700))
	known := unix.Mount("tmpfs", probe, "tmpfs", 0, "size=1m,noswap") == nil
	if known {
		must.NoError(t, unix.Unmount(probe, 0))
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	must.NoError(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " "+dir+" ") {
			must.EqOp(t, known, strings.Contains(line, "noswap"), must.Sprint(line))
			must.StrContains(t, line, "noexec")
			must.StrContains(t, line, "size=65536k")
		}
	}
}

// Where no tmpfs can be had, the start is refused: nothing is written to disk instead (L3). And root
// mounts nothing where a task's symlink points.
func TestSecretsDirIsRefused(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, dir string) error{
		"missing": func(*testing.T, string) error { return nil },
		"a file":  func(_ *testing.T, dir string) error { return os.WriteFile(dir, nil, 0o600) },
		"a symlink to a disk": func(t *testing.T, dir string) error {
			elsewhere := dir + "-elsewhere"
			t.Cleanup(func() { must.NotEq(t, unix.TMPFS_MAGIC, fsType(t, elsewhere)) })
			must.NoError(t, os.Mkdir(elsewhere, 0o700))
			return os.Symlink(elsewhere, dir)
		},
		"a symlink to memory": func(_ *testing.T, dir string) error { return os.Symlink("/dev/shm", dir) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg, dir := taskOnDisk(t)
			must.NoError(t, os.Remove(dir))
			must.NoError(t, replace(t, dir))
			must.ErrorContains(t, ensureTmpfs(cfg), "the task's secrets directory")
		})
	}
}
