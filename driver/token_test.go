package driver

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// Nomad's token is what reads the task's secrets. So Docker is not told it, whether the task asked for
// it (it gets it over the launcher then) or not (L1).
func TestDockerIsNotToldTheToken(t *testing.T) {
	for _, expose := range []bool{false, true} {
		job := &drivers.TaskConfig{
			ID: "alloc/web/1", Name: "web", AllocID: "alloc", AllocDir: t.TempDir(),
			Env: map[string]string{vaultTokenEnv: "hvs.token", "NOMAD_SECRETS_DIR": "/secrets", "OWN": "kept"},
		}
		must.NoError(t, job.EncodeConcreteDriverConfig(map[string]any{"image": "app"}))
		dir := job.TaskDir().SecretsDir
		must.NoError(t, os.MkdirAll(dir, 0o700))
		must.NoError(t, os.WriteFile(filepath.Join(dir, vaultTokenFile), []byte("hvs.token"), 0o600))
		channel := launcher.ChannelOf(t.TempDir(), job.AllocID, job.Name)
		must.NoError(t, channel.Make())
		hold, err := launcher.New(channel.Path())
		must.NoError(t, err)
		defer hold.Remove()

		d := &Driver{name: "docker", wrapped: &wrappedDocker, log: testLog(t)}
		tk, err := d.newTask(job, expose)
		must.NoError(t, err)
		tk.session = &fakeSession{}
		tk.files, err = taskdir.OpenPublisher(dir)
		must.NoError(t, err)
		c := tk.runner.(*containers)
		c.launcher = func() (string, error) { return filepath.Join(t.TempDir(), "launcher"), nil }
		cfg, _, err := c.waitingConfig(t.Context(), tk, channel, hold)
		must.NoError(t, err)

		must.MapNotContainsKey(t, cfg.Env, vaultTokenEnv)
		must.EqOp(t, "kept", cfg.Env["OWN"])
		given := tk.environ(&secrets.Set{Env: map[string]secrets.Value{"A": secrets.TextValue("b")}})
		covered := slices.ContainsFunc(cfg.Mounts, func(m *drivers.MountConfig) bool { return m.TaskPath == "/secrets/vault_token" })
		if expose {
			must.Eq(t, []string{"A=b", "VAULT_TOKEN=hvs.token"}, given)
			must.False(t, covered)
		} else {
			must.Eq(t, []string{"A=b"}, given)
			must.True(t, covered)
		}
	}
}

// What covers the token is bound into containers: it is an empty file of root's, or none.
func TestCoverFile(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		path, err := coverFile(dir)
		must.NoError(t, err)
		info, err := os.Lstat(path)
		must.NoError(t, err)
		must.Eq(t, 0o444, info.Mode())
		must.Zero(t, info.Size())
	}
	for name, make := range map[string]func(path string) error{
		"a link":         func(path string) error { return os.Symlink("/etc/shadow", path) },
		"a FIFO":         func(path string) error { return unix.Mkfifo(path, 0o666) },
		"not empty":      func(path string) error { return os.WriteFile(path, []byte("x"), 0o444) },
		"another user's": func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o444), os.Chown(path, 4242, -1)) },
	} {
		dir := t.TempDir()
		must.NoError(t, make(filepath.Join(dir, "empty")))
		_, err := coverFile(dir)
		must.Error(t, err, must.Sprint(name))
	}
}
