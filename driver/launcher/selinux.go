package launcher

import (
	"fmt"

	"github.com/opencontainers/selinux/go-selinux"
)

// label lets containers run the launcher on a host with SELinux. The wrapped driver's selinuxlabel is for
// what it binds itself; a mount from elsewhere has none. What containers may run and nobody may write
// there has a label of its own, that of images' layers (lxc_contexts(5): ro_file). Others have none to give.
func label(path string) error {
	if !selinux.GetEnabled() {
		return nil
	}
	selinux.ContainerLabels() // which reads what the next gives
	return setLabel(path, selinux.ROFileLabel())
}

func setLabel(path, label string) error {
	if label == "" {
		return nil
	}
	if err := selinux.SetFileLabel(path, label); err != nil {
		return fmt.Errorf("let containers run the launcher: %w", err)
	}
	return nil
}
