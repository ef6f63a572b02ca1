package launcher

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
)

// labels guards what ContainerLabels writes.
var labels sync.Mutex

// LetIn lets every container use path, a file or a directory with all in it, on a host with SELinux, as
// Docker's option "z" does; elsewhere it does nothing. A file system that has no labels is left as it is, as
// by Docker.
//
// The label is that of what containers may write to (lxc_contexts(5): file), also for the launcher: the
// reference policy, unlike Fedora's, lets no container begin with a file of images' layers (ro_file). So
// what is not to be written must be bound read-only.
func LetIn(path string) error {
	labels.Lock()
	defer labels.Unlock()
	process, file := selinux.ContainerLabels() // both empty without SELinux
	defer selinux.ReleaseLabel(process)
	if err := label.Relabel(path, file, true); err != nil && !errors.Is(err, syscall.ENOTSUP) {
		return fmt.Errorf("label %s for containers: %w", path, err)
	}
	return nil
}
