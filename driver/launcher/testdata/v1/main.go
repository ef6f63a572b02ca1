//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// The launcher of version 1, as it was: containers that were started with it have it for as long as they run, and
// tests look after them. Its FIFOs are in the task's secrets directory, and it takes what it finds there.
package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	retry = 500 * time.Microsecond

	notFound      = 127 // exit codes as a shell's and Docker's
	notExecutable = 126
)

// errVanished: the driver removes the FIFOs when it gives the start up.
var errVanished = errors.New("the driver gave this start up (its FIFO is gone)")

func main() {
	// First: until here, PID 1 exits with 2 on a signal, which is the runtime's doing.
	go obey(catch())
	if len(os.Args) < 4 {
		quit(notFound, "needs the paths of two FIFOs and a number of seconds; it is started by the nomad-driver-secrets plugin only")
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
	out, err := openOut(os.Args[2])
	if err != nil {
		quit(notFound, err.Error())
	}
	if _, err := out.Write([]byte{version}); err != nil {
		quit(notFound, err.Error())
	}
	p, err := receive(os.Args[1])
	if err != nil {
		quit(notFound, err.Error())
	}
	_, _ = out.Write([]byte{ready})

	err = become(p)
	errno := syscall.Errno(0)
	errors.As(err, &errno)
	code := notExecutable
	if errno == syscall.ENOENT || errors.Is(err, exec.ErrNotFound) {
		errno, code = syscall.ENOENT, notFound
	}
	_, _ = out.Write(failure(int(errno), err.Error()))
	quit(code, err.Error())
}

// openOut opens the FIFO for the result. It cannot before the driver gave it to this user (EACCES)
// and listens (ENXIO).
func openOut(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, fs.ErrNotExist):
			return nil, errVanished
		case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ENXIO):
			time.Sleep(retry)
		default:
			return nil, err
		}
	}
}

// receive waits for the driver and reads its payload.
func receive(path string) (payload, error) {
	in, err := openIn(path)
	if err != nil {
		return payload{}, err
	}
	defer in.Close()

	header := make([]byte, headerLen)
	for {
		_, err := io.ReadFull(in, header)
		if err == nil {
			break
		}
		if err != io.EOF {
			return payload{}, errors.New("reading the payload: " + err.Error())
		}
		// Nobody writes yet. The driver writes the header before it removes the FIFO: gone and
		// still nothing to read means that nothing will come.
		if _, err := os.Lstat(path); err != nil {
			if _, err := io.ReadFull(in, header); err != nil {
				return payload{}, errVanished
			}
			break
		}
		time.Sleep(retry)
	}
	n, err := bodyLen(header)
	if err != nil {
		return payload{}, err
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(in, body); err != nil {
		return payload{}, errors.New("reading the payload: " + err.Error())
	}
	return decode(body)
}

// openIn opens the FIFO of the payload, without waiting for its writer: a wait inside open could
// not see the FIFO vanish.
func openIn(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, fs.ErrNotExist):
			return nil, errVanished
		case errors.Is(err, syscall.EACCES):
			time.Sleep(retry)
		default:
			return nil, err
		}
	}
}

// become execs. The look-up is os/exec's over the app's own PATH, because that is what runc does,
// and so are the texts of its errors. It returns only on failure.
func become(p payload) error {
	env := merge(os.Environ(), p.Env, p.Unset)
	path := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	if err := os.Setenv("PATH", path); err != nil {
		return err
	}
	file, err := exec.LookPath(p.Argv[0])
	if err != nil {
		return err
	}
	// Exec also gives back the limit of open files that Go's runtime raised for itself.
	return &fs.PathError{Op: "exec", Path: file, Err: syscall.Exec(file, p.Argv, env)}
}

// merge gives own with set over it, less what is in unset.
func merge(own, set, unset []string) []string {
	over := make(map[string]int, len(set)+len(unset)) // name → its last place in set, or -1
	for _, name := range unset {
		over[name] = -1
	}
	for i, e := range set {
		name, _, _ := strings.Cut(e, "=")
		over[name] = i
	}
	env := make([]string, 0, len(own)+len(set))
	for _, e := range own {
		name, _, _ := strings.Cut(e, "=")
		if _, ok := over[name]; !ok {
			env = append(env, e)
		}
	}
	for i, e := range set {
		name, _, _ := strings.Cut(e, "=")
		if over[name] == i {
			env = append(env, e)
		}
	}
	return env
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

// obey ends a held process on the signals that ask for an end: as PID 1 of a container the kernel
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
