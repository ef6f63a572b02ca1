package driver

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

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
		c.files = (&launcher.Installer{Dirs: []string{t.TempDir()}}).FilesFor
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
