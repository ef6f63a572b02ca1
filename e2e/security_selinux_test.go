//go:build selinux

package e2e

import (
	"path/filepath"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/opencontainers/selinux/go-selinux"
	"github.com/stretchr/testify/require"
)

// A container that SELinux confines runs the launcher, reads its secrets and its live directory (C15), is restarted in place, and has
// commands run in it (L1), whatever the operator's selinuxlabel is: the wrapped driver needs none for a task
// that gets all by its environment.
func TestSELinux(t *testing.T) {
	require.Equal(t, selinux.Enforcing, selinux.EnforceMode(), "this test needs a host with SELinux: make selinux")
	for name, label := range map[string]string{"none": "", "shared": "z", "private": "Z"} {
		t.Run(name, func(t *testing.T) {
			agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
				Name: name, Placement: harness.InPlace, AuthPath: "jwt-nomad-" + name, SELinuxLabel: label,
			})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, agent.Close()) })
			l := newLabOn(t, agent)
			l.PutColour(name, "one")
			l.AllowLeased(name, "secret/data/"+name)
			testConfined(l, name)
		})
	}
}

func testConfined(l *lab.Lab, name string) {
	t := l.T
	alloc := l.RunFile("selinux", lab.Vars{"name": name})
	started := func(n int, colour string) {
		t.Helper()
		require.Contains(t, l.Lines(alloc, "app", "start ", n)[n-1], colour+" "+colour+" "+colour+" in system_u:system_r:container_t:s0:c")
		out, code, err := alloc.Exec(l.Ctx, "app", "sh", "-c", "echo $COLOUR")
		require.NoError(t, err)
		require.Zero(t, code, out)
		require.Equal(t, colour+"\n", out)
	}
	started(1, "one")
	l.PutColour(name, "two")
	started(2, "two")

	// It is the label that lets it in, and each start sees to that: a restorecon takes it away.
	var launcher string
	container, err := alloc.Container(l.Ctx, "app")
	require.NoError(t, err)
	for _, mount := range container.Mounts {
		if filepath.Base(mount.Source) == "launcher" {
			launcher = mount.Source
		}
	}
	require.NoError(t, selinux.SetFileLabel(launcher, "system_u:object_r:var_lib_t:s0"))
	out, code, err := alloc.ExecAsIs(l.Ctx, "app", "true")
	require.NoError(t, err)
	require.NotZero(t, code)
	require.Contains(t, out, "permission denied")
	l.PutColour(name, "three")
	started(3, "three")
	l.NotRestarted(alloc, lab.App)
}
