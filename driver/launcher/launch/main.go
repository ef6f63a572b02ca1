//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// The launcher is the entrypoint of a container that has secrets (L1). It waits until the driver
// gives it, over a FIFO, what to run, and becomes that. Secrets so never pass through Docker.
//
//	launcher CHANNEL NAME SECONDS [-- the app's command, for people to read]
//
// The FIFOs are NAME-in and NAME-out in the directory CHANNEL, where nobody may write but the driver. The
// launcher makes sure of that: it runs what it reads, as whoever it is.
//
// The runtime need not read the cgroup's CPU limit, and watch it, for the millisecond that this lives:
// that is what the debug settings are for.
//
// Whatever it changes about its own process must be undone by exec: what the app is born with (its
// limits, signals, file descriptors, standard input) is what it would have without the launcher.
package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher/internal/wire"
)

const (
	notFound      = 127 // exit codes as a shell's and Docker's
	notExecutable = 126
)

func main() {
	// First: until here, PID 1 exits with 2 on a signal, because of the runtime.
	go obey(catch())
	if len(os.Args) < 4 {
		quit(notFound, "needs a channel, a name and a number of seconds; it is started by the nomad-driver-secrets plugin only")
	}
	undumpable()

	seconds, err := strconv.Atoi(os.Args[3])
	if err != nil {
		quit(notFound, "the number of seconds: "+err.Error())
	}
	time.AfterFunc(time.Duration(seconds)*time.Second, func() {
		quit(notFound, "the driver gave no command within "+strconv.Itoa(seconds)+" seconds")
	})

	// "out" first: once the driver can write to "in", it knows that "out" has a writer, and that an
	// end of "out" is therefore the launcher's.
	c, err := openChannel(os.Args[1])
	if err != nil {
		quit(notFound, err.Error())
	}
	out, err := c.open(os.Args[2]+"-out", os.O_WRONLY)
	if err != nil {
		quit(notFound, err.Error())
	}
	if _, err := out.Write([]byte{wire.Version}); err != nil {
		quit(notFound, err.Error())
	}
	p, err := c.receive(os.Args[2] + "-in")
	if err != nil {
		quit(notFound, err.Error())
	}
	_, _ = out.Write([]byte{wire.Ready})

	err = become(p)
	errno := syscall.Errno(0)
	errors.As(err, &errno)
	code := notExecutable
	if errno == syscall.ENOENT || errors.Is(err, exec.ErrNotFound) {
		errno, code = syscall.ENOENT, notFound
	}
	_, _ = out.Write(wire.Failure(int(errno), err.Error()))
	quit(code, err.Error())
}

// catch takes all signals from the runtime, whose defaults differ between PID 1 and others. Those that
// the app is meant to be born ignoring are left alone: exec puts only caught ones back to default.
func catch() <-chan os.Signal {
	caught := make(chan os.Signal, 8)
	for n := syscall.Signal(1); n < 65; n++ {
		if !signal.Ignored(n) {
			signal.Notify(caught, n)
		}
	}
	return caught
}

// obey ends a waiting process on the signals that ask for an end: as PID 1 of a container the kernel
// would drop them, and `docker stop` wait for its timeout. All others are dropped, as the kernel
// does for a PID 1 that has no handlers yet.
func obey(caught <-chan os.Signal) {
	for s := range caught {
		switch n := s.(syscall.Signal); n {
		case syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT:
			os.Exit(128 + int(n))
		}
	}
}

// undumpable keeps the payload out of a core dump, and from processes of the same user, until exec
// resets it.
func undumpable() {
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 0, 0)
}

func quit(code int, why string) {
	_, _ = os.Stderr.WriteString("nomad-driver-secrets launcher: " + why + "\n")
	os.Exit(code)
}
