package server

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// threadGroup is the process that a thread is of; 0 if the thread cannot be seen. FUSE gives a thread's number.
func threadGroup(tid uint32) uint32 {
	if tid == 0 {
		return 0
	}
	// Most threads that read a file are their process's first. No signal is sent; that it is not permitted to is
	// asked only of a thread that is there.
	if unix.Tgkill(int(tid), int(tid), 0) != unix.ESRCH {
		return tid
	}
	status, err := os.ReadFile(procPath(tid) + "status")
	if err != nil {
		return 0
	}
	_, rest, ok := bytes.Cut(status, []byte("\nTgid:\t"))
	if !ok {
		return 0
	}
	number, _, _ := bytes.Cut(rest, []byte("\n"))
	tgid, err := strconv.ParseUint(string(number), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(tgid)
}

// isDocker reports whether a thread calls itself Docker's daemon. Whoever pretends to sees a name that means nothing.
func isDocker(tid uint32) bool {
	comm, err := os.ReadFile(procPath(tid) + "comm")
	return err == nil && string(comm) == "dockerd\n"
}

func procPath(tid uint32) string { return "/proc/" + strconv.FormatUint(uint64(tid), 10) + "/" }
