package harness_test

import (
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

func TestDockerTask(t *testing.T) {
	l := newLab(t)
	alloc := l.RunFile("sleep", lab.Vars{"name": "docker-task"})
	l.Lines(alloc, "web", "start pid=1 ", 1)

	out, code, err := alloc.Exec(l.Ctx, "web", "sh", "-c", "echo $NOMAD_TASK_NAME; exit 3")
	require.NoError(t, err)
	require.Equal(t, "web\n", out)
	require.Equal(t, 3, code)

	inspect, err := alloc.Container(l.Ctx, "web")
	require.NoError(t, err)
	require.True(t, inspect.State.Running)

	_, err = alloc.WaitEvent(l.Ctx, "web", "Task started by client")
	require.NoError(t, err)
}

func TestDockerGroupNetwork(t *testing.T) {
	l := newLab(t)
	alloc := l.RunFile("sleep", lab.Vars{"name": "docker-bridge", "network": "bridge"})
	out, code, err := alloc.Exec(l.Ctx, "web", "ip", "addr", "show", "eth0")
	require.NoError(t, err)
	require.Zero(t, code, out)
	require.Contains(t, out, "172.26.")
}

func TestDockerPullWithLogin(t *testing.T) {
	l := newLab(t)
	registry, err := l.Registry(l.Ctx)
	require.NoError(t, err)
	ref, err := registry.Push(l.Ctx, l.Images.App, "app:1")
	require.NoError(t, err)
	alloc := l.RunFile("docker-pull", lab.Vars{"image": ref, "user": registry.User, "password": registry.Password})
	l.Lines(alloc, "web", "start ", 1)
}

func TestRawExecTask(t *testing.T) {
	l := newLab(t)
	alloc := l.RunFile("raw-exec", nil)
	l.Lines(alloc, "web", "file ", 1)
	require.NoError(t, alloc.Signal(l.Ctx, "web", "SIGHUP"))
	l.Lines(alloc, "web", "changed ", 1)
	// Nomad collects them every few seconds.
	l.Until("stats", func() error { _, err := alloc.Stats(l.Ctx, "web"); return err })
}
