package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/docker/docker/client"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/statedir"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// unreachable is what Docker's client says where no engine listens.
func unreachable(t *testing.T) error {
	t.Helper()
	docker, err := client.NewClientWithOpts(client.WithHost("unix://" + filepath.Join(t.TempDir(), "docker.sock")))
	must.NoError(t, err)
	defer docker.Close()
	_, err = docker.Ping(t.Context())
	must.Error(t, err)
	return err
}

// S2, S9: what is no fault of the job's, and what the machine lacks for a moment, is tried again within the job's restart block.
// The recoverable error is the outermost one, and says what it said.
func TestStartErrors(t *testing.T) {
	errno := func(no syscall.Errno) error {
		return fmt.Errorf("publish files: %w", &os.PathError{Op: "open", Path: "/secrets/x", Err: no})
	}
	noLauncher := &launcher.Installer{Dirs: []string{"/proc/none"}}
	_, notInstalled := noLauncher.Install()
	for _, test := range []struct {
		err         error
		recoverable bool
	}{
		{secrets.Errorf(secrets.Outage, "the server is away"), true},
		{secrets.Errorf(secrets.Invalid, "bad option"), false},
		{secrets.Errorf(secrets.Refused, "permission denied"), false},
		{secrets.Errorf(secrets.NotFound, "nothing is there"), false},
		{fmt.Errorf("container c ended (exit code 137) before its program ran: %w", launcher.ErrEnded), true},
		{fmt.Errorf("start the program: %w", launcher.ErrTimeout), true},
		{fmt.Errorf("make: %w", launcher.ErrNoRoom), true},
		{notInstalled, true},
		{fmt.Errorf("start container c: %w", &launcher.ExecError{Errno: syscall.ENOENT, Text: "no such file"}), false},
		{fmt.Errorf("start container c: %w", &launcher.ExecError{Errno: syscall.ENOSPC, Text: "no space"}), false},
		{fmt.Errorf("start container c: %w", &launcher.ExecError{Errno: syscall.EAGAIN, Text: "resource temporarily unavailable"}), true},
		{structs.NewRecoverableError(errors.New("the wrapped driver's"), true), true},
		{structs.NewRecoverableError(errors.New("the wrapped driver's, for good"), false), false},
		{fmt.Errorf("%w: it is on a disk", statedir.ErrUnusable), true},
		{noFileServer("app", errors.New("no /dev/fuse")), true},
		{fmt.Errorf("create the container: %w", errBoundBefore), true},
		{errno(syscall.EMFILE), true},
		{errno(syscall.ENFILE), true},
		{errno(syscall.ENOSPC), true},
		{errno(syscall.EDQUOT), true},
		{errno(syscall.ENOMEM), true},
		{errno(syscall.EAGAIN), true},
		{errno(syscall.EACCES), false},
		{errno(syscall.ENOENT), false},
		{errors.Join(errors.New("the undo failed"), errno(syscall.EMFILE)), true},
		{fmt.Errorf("inspect: %w", unreachable(t)), true},
		{errors.New("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"), true},
		{errors.New(`error during connect: Post "http://docker/containers/create": EOF`), true},
		{errors.New("any other"), false},
	} {
		got := startError(test.err)
		must.EqOp(t, test.recoverable, structs.IsRecoverable(got), must.Sprint(test.err))
		must.StrContains(t, got.Error(), strings.SplitN(test.err.Error(), "\n", 2)[0])
	}
}

// A wrapped driver's errors have lost their type, and some say that nothing helps without knowing.
func TestWrappedDriversErrors(t *testing.T) {
	for text, recoverable := range map[string]bool{
		"failed to launch command with executor: rpc error: code = Unknown desc = fork/exec /bin/app: resource temporarily unavailable": true,
		"failed to create executor: pipe2: too many open files":                                                                         true,
		"Failed to create container: Error response from daemon: mkdir /var/lib/docker/overlay2/x: no space left on device":             true,
		"Failed to start container: OCI runtime create failed: unable to start: fork/exec: Cannot allocate memory":                      true,
		"Failed to create container: Cannot connect to the Docker daemon at unix:///var/run/docker.sock":                                true,
		"Failed to create container: Error response from daemon: invalid mount config":                                                  false,
		"failed to launch command with executor: executable file not found":                                                             false,
	} {
		for _, err := range []error{errors.New(text), structs.NewRecoverableError(errors.New(text), false)} {
			must.EqOp(t, recoverable, structs.IsRecoverable(retryableSaid(err)), must.Sprint(text))
			must.EqOp(t, recoverable, structs.IsRecoverable(startError(fmt.Errorf("start: %w", retryableSaid(err)))), must.Sprint(text))
		}
		must.True(t, structs.IsRecoverable(retryableSaid(structs.NewRecoverableError(errors.New(text), true))))
	}
}
