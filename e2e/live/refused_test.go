package live

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// TestWithoutDevFuse is told to who starts a container, and nothing is left of it.
func TestWithoutDevFuse(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	d.wrapper = []string{"unshare", "--mount", "--propagation", "slave", "sh", "-c", `mount -t tmpfs none /dev && touch /dev/null && exec "$0" "$@"`}
	d.start()
	put(t, "no-fuse", "user", "x")
	for range 2 {
		out, err := docker(t, "run", "--rm", "--network", "none", "--volume-driver", d.name, "-v", "secret/no-fuse:/secrets", busyboxImage, "true")
		must.ErrorContains(t, err, "volume secret/no-fuse: mount the live directories", must.Sprint(out))
		must.ErrorContains(t, err, "is there a /dev/fuse (modprobe fuse)?")
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", d.pid()))
	must.NoError(t, err)
	for line := range strings.Lines(string(mounts)) {
		at := strings.Fields(line)[4]
		must.False(t, strings.HasPrefix(at, d.dir+"/") && at != d.path("run/shared"), must.Sprint(line))
	}
	state, err := os.ReadFile(d.path("state/volumes.json"))
	must.NoError(t, err)
	must.StrNotContains(t, string(state), `"mounts"`)
	mustDocker(t, "volume", "rm", "secret/no-fuse")
	must.SliceEmpty(t, d.leftovers())
}

// TestWithoutRights is told at the start.
func TestWithoutRights(t *testing.T) {
	t.Parallel()
	d := newDaemon(t)
	must.NoError(t, os.Chmod(d.dir, 0o777))
	for _, prefix := range [][]string{
		{"setpriv", "--bounding-set", "-sys_admin"},
		{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"},
	} {
		command := append(append(prefix, d.binary), d.args...)
		out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		must.Error(t, err)
		must.StrContains(t, string(out), "root with CAP_SYS_ADMIN is needed", must.Sprint(prefix))
		must.SliceEmpty(t, mountsBelow(t, d.dir))
	}
}
