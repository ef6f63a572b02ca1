//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// The file server serves the live directories of a node (package server). The plugin carries it and starts it when it is
// first needed:
//
//	live-server start ROOT [SELINUX-CONTEXT]    file descriptor 3: the listening socket
//
// It goes on in a session of its own. What was started returns when the file system is mounted, or with the reason why it
// cannot be on its standard error.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/server"
)

const socketFD, readyFD = 3, 4

func main() {
	if len(os.Args) < 3 || len(os.Args) > 4 {
		fail(errors.New("it is started by nomad-driver-secrets only"))
	}
	switch os.Args[1] {
	case "start":
		if err := start(); err != nil {
			fail(err)
		}
	case "serve":
		serve()
	default:
		fail(errors.New("it is started by nomad-driver-secrets only"))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// start starts the server proper, and is gone when that is ready: so it is nobody's child, and no feeder's end or oversight
// makes a zombie of it.
func start() error {
	if err := keepFiles(); err != nil {
		return err
	}
	ready, readyW, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{os.Args[0], "serve"}, os.Args[2:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"GOTRACEBACK=none"}
	cmd.ExtraFiles = []*os.File{os.NewFile(socketFD, "socket"), readyW}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = readyW.Close()
	answer, err := io.ReadAll(ready)
	if err != nil {
		return err
	}
	if string(answer) == "ready" {
		return nil
	}
	if len(answer) == 0 {
		answer = fmt.Appendf(nil, "the file server ended before it was ready: %v", cmd.Wait())
	}
	return errors.New(strings.TrimSpace(string(answer)))
}

// keepFiles keeps what a feeder has open, by inheritance even, out of the server: that lives on, and would hold a lock or the
// end of a pipe for ever.
func keepFiles() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, f := range open {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// serve is the server. Its memory is bounded by what is asked of Go here, and what package server bounds.
func serve() {
	runtime.GOMAXPROCS(min(4, runtime.GOMAXPROCS(0)))
	debug.SetGCPercent(50)
	ready := os.NewFile(readyFD, "ready")
	syscall.CloseOnExec(socketFD)
	syscall.CloseOnExec(readyFD)
	listener, err := listen()
	if err == nil {
		err = server.Run(context.Background(), server.Config{
			Root:     os.Args[2],
			Listener: listener,
			Context:  strings.Join(os.Args[3:], ""),
			Confine:  true,
			Ready: func() {
				_, _ = ready.WriteString("ready")
				_ = ready.Close()
			},
		})
	}
	if err != nil {
		_, _ = ready.WriteString(err.Error())
		os.Exit(1)
	}
}

// listen is called here and not by who made the socket: the kernel tells those who connect who did it.
func listen() (*net.UnixListener, error) {
	socket := os.NewFile(socketFD, "socket")
	defer socket.Close()
	if err := syscall.Listen(socketFD, 128); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	l, err := net.FileListener(socket)
	if err != nil {
		return nil, err
	}
	unix, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.New("file descriptor 3 is no unix socket")
	}
	return unix, nil
}
