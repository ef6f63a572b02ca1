//go:build selinux

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/stretchr/testify/require"
)

// A container that SELinux confines runs the launcher, reads its secrets, is restarted in place, and has
// commands run in it (L1).
func TestSELinux(t *testing.T) {
	require.Equal(t, selinux.Enforcing, selinux.EnforceMode(), "this test needs a host with SELinux: make selinux")
	l := newLab(t)
	k := kvTask{
		name: "selinux", driver: "docker",
		command: `command = "/bin/sh"
        args    = ["-c", "echo start $COLOUR $(cat /secrets/app/colour) in $(cat /proc/self/attr/current); exec sleep 1000"]`,
	}
	alloc := k.run(l, "one")
	require.Contains(t, l.lines(alloc, "app", "start ", 1)[0], "one one in system_u:system_r:container_t:s0:c")
	out, code, err := alloc.Exec(l.ctx, "app", "sh", "-c", "echo $COLOUR")
	require.NoError(t, err)
	require.Zero(t, code, out)
	require.Equal(t, "one\n", out)
	k.put(l, "two")
	require.Contains(t, l.lines(alloc, "app", "start ", 2)[1], "two two in system_u:system_r:container_t:s0:c")
	l.noRestarts(alloc)

	var launcher string
	container, err := alloc.Container(l.ctx, "app")
	require.NoError(t, err)
	for _, mount := range container.Mounts {
		if strings.HasPrefix(filepath.Base(mount.Source), "launcher-") {
			launcher = mount.Source
		}
	}
	label, err := selinux.FileLabel(launcher)
	require.NoError(t, err)
	require.Equal(t, "system_u:object_r:container_file_t:s0", label)

	// It is the label that lets it in, and each start sees to it: a restorecon takes it away.
	require.NoError(t, selinux.SetFileLabel(launcher, "system_u:object_r:var_lib_t:s0"))
	out, code, err = alloc.Exec(l.ctx, "app", "true")
	require.NoError(t, err)
	require.NotZero(t, code)
	require.Contains(t, out, "permission denied")
	k.put(l, "three")
	require.Contains(t, l.lines(alloc, "app", "start ", 3)[2], "three three in ")
	l.noRestarts(alloc)
}
