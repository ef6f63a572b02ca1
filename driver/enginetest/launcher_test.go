package enginetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/client"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// A container's root with CAP_SYS_ADMIN makes writable what the driver has bound read-only, and writes a program of its own
// there. It reaches itself alone: commands in other containers run the launcher, a container that starts meanwhile has its token
// covered, and its own next one has the launcher again.
func TestEngineLauncherIsOneContainers(t *testing.T) {
	image := busyboxImage(t)
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	must.NoError(t, err)
	t.Cleanup(func() { _ = engine.Close() })
	a := pluginOn(t, engine, "", map[string]any{"allow_caps": []string{"sys_admin", "chown", "dac_override", "fowner", "kill", "setuid", "setgid"}})

	start := func(options map[string]any) *drivers.TaskConfig {
		t.Helper()
		options["splay"], options["stagger"] = "0s", "0s"
		options["secret"] = map[string]any{"app": map[string]any{"path": "secret/app", "env": []map[string]string{{"CONTENT": "content"}}}}
		cfg := a.taskConfig(image, "none", options)
		dir := cfg.TaskDir().SecretsDir
		must.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC, "size=1m"))
		must.NoError(t, os.WriteFile(filepath.Join(dir, "vault_token"), []byte("hvs.token"), 0o444))
		_, _, err := a.StartTask(cfg)
		must.NoError(t, err)
		return cfg
	}
	// command runs one that says with which value, and whether the token is covered.
	command := func(cfg *drivers.TaskConfig) string {
		t.Helper()
		said, err := a.ExecTask(cfg.ID, []string{"/busybox", "sh", "-c", `echo "has $CONTENT$(/busybox cat /secrets/vault_token)"`}, time.Minute)
		must.NoError(t, err)
		return string(said.Stdout)
	}

	victim := start(map[string]any{})
	attacker := start(map[string]any{
		"cap_add": []string{"sys_admin"}, "security_opt": []string{"apparmor=unconfined"},
		"args": []string{"sh", "-c", `
			if [ "$CONTENT" = 0 ]; then
				for file in /.nomad-secrets-launcher /secrets/vault_token; do
					/busybox mount -o remount,rw,bind $file && printf '#!/busybox sh\necho taken over\n' > $file
				done
				: > /local/done
			fi
			exec /busybox sleep 1000`},
	})
	done := filepath.Join(attacker.TaskDir().LocalDir, "done")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(done); err == nil {
			break
		}
		must.True(t, time.Now().Before(deadline), must.Sprint("the attack is not over in time"))
	}
	must.Eq(t, "taken over\n", command(attacker), must.Sprint("the attack does nothing"))
	must.Eq(t, "has 0\n", command(victim))
	later := start(map[string]any{})
	must.Eq(t, "has 0\n", command(later))

	// A container of an older plugin has no files of its own. Commands in it and its restart in place need none.
	for _, path := range boundBy(t, engine, later) {
		must.NoError(t, os.RemoveAll(filepath.Dir(path)))
	}
	must.Eq(t, "has 0\n", command(later))

	a.secret.content.Add(1)
	for left := 3; left > 0; {
		select {
		case e := <-a.events:
			if strings.Contains(e.Message, "restarted in place") {
				left--
			}
		case <-time.After(time.Minute):
			t.Fatal("the tasks are not restarted")
		}
	}
	for _, task := range []*drivers.TaskConfig{victim, attacker, later} {
		must.Eq(t, "has 1\n", command(task))
	}

	bound := boundBy(t, engine, attacker)
	must.SliceLen(t, 2, bound)
	must.NoError(t, a.DestroyTask(attacker.ID, true))
	for _, path := range bound {
		must.FileNotExists(t, path)
		must.DirNotExists(t, filepath.Dir(path))
	}
}

// boundBy is what a task's container has bound of the launcher's files, on the host.
func boundBy(t *testing.T, engine *client.Client, task *drivers.TaskConfig) (paths []string) {
	t.Helper()
	container, err := engine.ContainerInspect(t.Context(), "web-"+task.AllocID)
	must.NoError(t, err)
	for _, mount := range container.Mounts {
		if mount.Destination == "/.nomad-secrets-launcher" || mount.Destination == "/secrets/vault_token" {
			must.FileExists(t, mount.Source)
			paths = append(paths, mount.Source)
		}
	}
	return paths
}
