package driver

import (
	"errors"
	"strings"

	"github.com/docker/docker/client"
	"github.com/hashicorp/nomad/nomad/structs"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/statedir"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A start that fails for what the machine lacks at the moment, and may have a moment later, is tried again by Nomad within
// the job's restart block (S9): its error is recoverable, which must be the outermost. What a job asks for wrongly is not
// tried again.

// lackingNumbers are of what the kernel has none of for now.
var lackingNumbers = []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOSPC, unix.EDQUOT, unix.EAGAIN, unix.ENOBUFS}

// lackingParts are of parts of this plugin, and of what it stands on, that are not there or do not answer for now.
var lackingParts = []error{
	launcher.ErrEnded,   // a container ended before its program ran, as any may end after that
	launcher.ErrTimeout, // it does not get on
	launcher.ErrNoRoom,
	launcher.ErrNotInstalled,
	statedir.ErrUnusable, // an operator may repair it
	errNoFileServer,
	errBoundBefore,
}

// lacking reports whether an error is of what the machine lacks for the moment.
func lacking(err error) bool {
	var refused *launcher.ExecError // whatever its number: the kernel's word on the job's program
	if errors.As(err, &refused) && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENOMEM) {
		return false
	}
	for _, lack := range lackingNumbers {
		if errors.Is(err, lack) {
			return true
		}
	}
	for _, lack := range lackingParts {
		if errors.Is(err, lack) {
			return true
		}
	}
	return secrets.KindOf(err) == secrets.Outage || connectionLost(err)
}

// connectionLost reports whether the Docker engine could not be reached. The docker driver's errors have lost their type:
// they are known by the Docker client's words.
func connectionLost(err error) bool {
	return client.IsErrConnectionFailed(err) ||
		strings.Contains(err.Error(), "Cannot connect to the Docker daemon") || strings.Contains(err.Error(), "error during connect")
}

// lackingSaid reports the same of a wrapped driver's error, which may be an engine's or an executor's that it passes on. They
// have no type any more, and are known by the kernel's words.
func lackingSaid(err error) bool {
	text := strings.ToLower(err.Error())
	for _, lack := range lackingNumbers {
		if strings.Contains(text, lack.Error()) {
			return true
		}
	}
	return lacking(err)
}

// retryable makes an error of what the machine lacks recoverable, and leaves every other as it is.
func retryable(err error) error { return recoverableIf(err, lacking(err)) }

// retryableSaid is retryable for a wrapped driver's error. Where that says that it is not recoverable, it may have had no
// way to know.
func retryableSaid(err error) error { return recoverableIf(err, lackingSaid(err)) }

func recoverableIf(err error, lacks bool) error {
	var said *structs.RecoverableError
	if errors.As(err, &said) || lacks {
		return structs.NewRecoverableError(err, lacks || said.Recoverable)
	}
	return err
}

// startError is the error of a start as Nomad is to have it. Nomad makes an event of it, which it keeps in its Raft log: so
// it is kept short (S8).
func startError(err error) error { return retryable(secrets.ShortError(err)) }
