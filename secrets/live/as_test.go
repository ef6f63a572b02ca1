package live

import (
	"errors"
	"os/exec"
	"strings"
	"syscall"
)

// as reads a file as another user of the host.
func as(uid uint32, path string) error { return runAs(uid, "cat", path) }

// asRootOfANamespace reads a file as another user, who is root in a user namespace of its own.
func asRootOfANamespace(uid uint32, path string) error {
	return runAs(uid, "unshare", "--user", "--map-root-user", "cat", path)
}

func runAs(uid uint32, command ...string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.New(strings.TrimSpace(string(out)))
	}
	return nil
}
