package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A version without channels is upgraded under a running task: until then another user's process takes its commands
// over, and from then on it does not, in the container that there is as in the next (L1).
func TestUpgradeToChannels(t *testing.T) {
	t.Parallel()
	older := withoutChannels(t)
	l := newOwnLab(t, harness.AgentOptions{Name: "to-channels", Placement: harness.InPlace}, 6*time.Minute)
	l.PutColour("to-channels", "first")
	l.AllowLeased("to-channels", "secret/data/to-channels")
	current := l.PluginVersion("docker")
	for _, driver := range []string{"docker", "raw_exec"} {
		require.NoError(t, l.Agent.InstallPlugin(older, driver))
	}
	l.RestartAs(lab.OlderVersion)

	alloc := l.RunFile("to-channels", nil)
	both := []string{"docker", "raw_exec"}
	for _, task := range both {
		require.Equal(t, []string{"first"}, l.Lines(alloc, task, "start ", 1))
		require.Equal(t, "0 0777", secretsMode(l, alloc, task)) // not sticky: anybody can rename what is there
	}

	a := &channelAttack{CheckLab: lab.CheckLab{Lab: l}, alloc: alloc}
	host := a.onHost(stranger, both...)
	l.Until("a command in the container to be taken over", func() error {
		_, _, _ = alloc.ExecAsIs(l.Ctx, "docker", "/bin/sh", "-c", "echo exec")
		return a.owned()
	})
	require.Positive(t, host.counts.Load().Injected)
	for _, proof := range a.proofs() {
		_ = os.Remove(proof)
	}

	require.NoError(t, l.Agent.Place(harness.InPlace))
	l.RestartAs(current)
	injected := host.counts.Load().Injected
	for _, task := range both {
		require.Equal(t, "0 1777", secretsMode(l, alloc, task), "at once")
		require.Len(t, l.Lines(alloc, task, "start ", 1), 1, "an upgrade restarts nothing")
	}
	require.False(t, a.hasChannel("docker"))
	sees := func(colour string) func(int) {
		return func(int) {
			for _, task := range both {
				out, code, err := alloc.Exec(l.Ctx, task, "/bin/sh", "-c", "echo exec $COLOUR")
				require.NoError(t, err)
				require.Zero(t, code, out)
				require.Equal(t, "exec "+colour+"\n", out)
			}
		}
	}
	a.phase("commands after an upgrade", []*attacker{host}, sees("first"))

	l.PutColour("to-channels", "second")
	for _, task := range both {
		require.Equal(t, "second", l.Lines(alloc, task, "start ", 2)[1])
		require.Equal(t, "0 1777", secretsMode(l, alloc, task))
	}
	require.True(t, a.hasChannel("docker"), "the next container has one")
	a.phase("commands after a restart in place", []*attacker{host}, sees("second"))
	require.ErrorContains(t, a.owned(), "no proof")
	require.Equal(t, injected, host.counts.Load().Injected)
	for _, task := range both {
		l.NotRestarted(alloc, task)
	}
}

// secretsMode is the owner and the mode of a task's secrets directory.
func secretsMode(l *lab.Lab, alloc *harness.Alloc, task string) string {
	l.T.Helper()
	var st unix.Stat_t
	require.NoError(l.T, unix.Stat(alloc.SecretsDir(task), &st))
	return fmt.Sprintf("%d %04o", st.Uid, st.Mode&0o7777)
}

// owned is nil once a command of an attacker's has run.
func (a *channelAttack) owned() error {
	for _, proof := range a.proofs() {
		if _, err := os.Lstat(proof); err == nil {
			return nil
		}
	}
	return errors.New("there is no proof")
}

// hasChannel reports whether a task's container has a channel of its own.
func (a *channelAttack) hasChannel(task string) bool {
	a.T.Helper()
	container, err := a.alloc.Container(a.Ctx, task)
	require.NoError(a.T, err)
	for _, m := range container.Mounts {
		if m.Destination == "/.nomad-secrets-channel" {
			require.False(a.T, m.RW)
			require.Equal(a.T, a.alloc.ID+"-"+task, filepath.Base(m.Source), "its own, and no more")
			return true
		}
	}
	return false
}

// withoutChannels makes of this plugin the version before channels: its launcher, and where it had its FIFOs.
func withoutChannels(t *testing.T) string {
	t.Helper()
	root, err := harness.RepoRoot()
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), "launcher")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./driver/launcher/testdata/v1")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	launcher, err := os.ReadFile(program)
	require.NoError(t, err)
	replace := func(pairs ...string) func([]byte) []byte {
		return func(source []byte) []byte {
			for i := 0; i < len(pairs); i += 2 {
				require.Contains(t, string(source), pairs[i])
				source = []byte(strings.Replace(string(source), pairs[i], pairs[i+1], 1))
			}
			return source
		}
	}
	return lab.ChangedPlugin(t, map[string]func([]byte) []byte{
		"driver/about.go": lab.SetConst("Version", `"`+lab.OlderVersion+`"`),
		"driver/launcher/launcher_" + runtime.GOARCH + ".bin": func([]byte) []byte { return launcher },
		"driver/containers_start.go": replace(
			"launcher.New(channel.Path())", "launcher.NewInSecrets(st.t.cfg.TaskDir().SecretsDir)",
			"channel: true", "channel: false",
		),
		"driver/containers.go": replace(
			"hold.Args(launcher.ContainerChannel,", "hold.Args(inside,",
			"TaskPath: launcher.ContainerPath, Readonly: true},\n\t\t&drivers.MountConfig{HostPath: channel.Path(), TaskPath: launcher.ContainerChannel, Readonly: true})",
			"TaskPath: launcher.ContainerPath, Readonly: true})",
		),
		"driver/processes.go": replace(
			"launcher.New(channel.Path())", "launcher.NewInSecrets(t.cfg.TaskDir().SecretsDir)",
			"hold.Args(channel.Path())", "hold.Args(t.cfg.TaskDir().SecretsDir)",
		),
		"driver/launcher/hold.go": replace(
			"st.Mode&unix.S_ISVTX == 0 || int(st.Uid) != os.Geteuid() {", "false {",
			"out = randomName()", "out = h.name",
		),
		"secrets/taskdir/publish.go": replace(
			"dir.Chown(os.Geteuid(), os.Getegid())", "dir.Chown(65534, 65534)",
			"0o777 | fs.ModeSticky", "0o777",
		),
	})
}
