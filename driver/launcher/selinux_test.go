package launcher

import (
	"testing"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/shoenig/test/must"
)

// On a host with SELinux a container may run the launcher by its label; on any other that is not looked at.
func TestLabel(t *testing.T) {
	path, err := Install(t.TempDir())
	must.NoError(t, err)
	must.NoError(t, setLabel(path, "system_u:object_r:container_ro_file_t:s0"))
	got, err := selinux.FileLabel(path)
	must.NoError(t, err)
	must.Eq(t, "system_u:object_r:container_ro_file_t:s0", got)
	must.True(t, intact(path))
	must.NoError(t, setLabel(path, ""))
}
