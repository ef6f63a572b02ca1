package live

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// process is a file server's process. It is named by a descriptor where the kernel has them, so that it is never another.
type process struct{ pid, fd int }

func peerOf(conn *net.UnixConn) (process, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return process{}, err
	}
	var peer *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		return process{}, cerr
	}
	if err != nil {
		return process{}, err
	}
	if peer.Uid != 0 {
		return process{}, fmt.Errorf("user %d, not root", peer.Uid)
	}
	p := process{pid: int(peer.Pid), fd: -1}
	if p.pid == unix.Getpid() || p.pid <= 1 {
		return process{}, fmt.Errorf("process %d is no file server", p.pid)
	}
	if fd, err := unix.PidfdOpen(p.pid, 0); err == nil {
		p.fd = fd
	}
	return p, nil
}

// kill ends the process and waits until it is gone, and with it its hold on everybody who reads.
func (p process) kill() error {
	var err error
	if p.fd < 0 {
		err = unix.Kill(p.pid, unix.SIGKILL)
	} else {
		err = unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0)
	}
	if err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill process %d: %w", p.pid, err)
	}
	if p.fd < 0 {
		return nil
	}
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, 1000)
	return nil
}

// busy reports whether a thread of the process runs, or waits for a processor or a disk. One that is stopped, or in which all
// threads wait for each other, is not.
func (p process) busy() bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.pid))
	if err != nil {
		return false
	}
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended
		}
		state, ok := bytes.CutPrefix(b[bytes.LastIndexByte(b, ')')+1:], []byte(" "))
		if ok && len(state) > 0 && (state[0] == 'R' || state[0] == 'D') {
			return true
		}
	}
	return false
}

func (p process) close() {
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
	}
}
