package launcher

import (
	"fmt"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
)

// LetIn lets containers read, and run, a file of the driver's that is bound into them, on a host with SELinux.
// The wrapped driver's selinuxlabel is for what it binds itself; a mount from elsewhere has none. The label is that of what any container may use
// (lxc_contexts(5): file): that of images' layers (ro_file) would let nobody write there, but the reference
// policy, unlike Fedora's, lets no container begin with such a file. Bind it read-only.
func LetIn(path string) error {
	process, file := selinux.ContainerLabels() // both empty without SELinux
	defer selinux.ReleaseLabel(process)
	if err := label.Relabel(path, file, true); err != nil {
		return fmt.Errorf("label %s for containers: %w", path, err)
	}
	return nil
}
