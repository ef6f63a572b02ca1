package nomadvar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
)

const (
	// socket is where Nomad makes the task API's, below a task's directory.
	socket = "secrets/api.sock"
	// maxSocketPath is how long the path of a unix socket may be: Nomad makes none where it would be longer.
	maxSocketPath = 107
)

// sockets connects to the task API, by the socket of whatever task has one.
type sockets struct {
	mu   sync.Mutex
	last string // the directory of the task, other than the one that asked, whose socket was good last
}

// taskKey is in a request's context: the task that asks.
type taskKey struct{}

func (s *sockets) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	task, _ := ctx.Value(taskKey{}).(secrets.Task)
	conn, err := connect(ctx, task.Dir)
	if err == nil {
		return conn, nil
	}
	if conn := s.others(ctx, task.Dir); conn != nil {
		return conn, nil
	}
	return nil, &socketError{path: filepath.Join(task.Dir, socket), err: err}
}

// others connects by the socket of another task on the node; nil: there is none.
func (s *sockets) others(ctx context.Context, own string) net.Conn {
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	if last != "" && last != own {
		if conn, err := connect(ctx, last); err == nil {
			return conn
		}
	}
	for _, dir := range neighbours(own) {
		if ctx.Err() != nil {
			return nil
		}
		if conn, err := connect(ctx, dir); err == nil {
			s.mu.Lock()
			s.last = dir
			s.mu.Unlock()
			return conn
		}
	}
	return nil
}

// neighbours are the directories of the node's other tasks.
func neighbours(own string) (dirs []string) {
	allocs := filepath.Dir(filepath.Dir(own))
	all, _ := os.ReadDir(allocs)
	for _, alloc := range all {
		tasks, _ := os.ReadDir(filepath.Join(allocs, alloc.Name()))
		for _, task := range tasks {
			if dir := filepath.Join(allocs, alloc.Name(), task.Name()); task.IsDir() && dir != own {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// connect connects to a task's socket if it is the agent's. It is opened first, without following links, and then connected
// to by its descriptor: so what is connected to is what was found, and its path may be of any length.
func connect(ctx context.Context, taskDir string) (net.Conn, error) {
	f, err := beneath.OpenIn(taskDir, socket, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, errors.New("something else than a socket is there")
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", beneath.PathOf(f))
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err // its path says nothing
		}
		return nil, err
	}
	if err := checkPeer(conn.(*net.UnixConn)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// checkPeer says whether the other end can be the agent: it has made its socket as the user that the plugin runs as, and in
// the same mount namespace. A container's root has neither, or the first alone.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	pidfd, noPidfd := -1, error(nil)
	var failed error
	if err := raw.Control(func(fd uintptr) {
		if peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); failed == nil {
			pidfd, noPidfd = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		}
	}); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("see whose socket it is: %w", failed)
	}
	if noPidfd == nil {
		defer func() { _ = unix.Close(pidfd) }()
	}
	if int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("the socket is not the agent's: user %d made it", peer.Uid)
	}
	own, err := os.Stat("/proc/self/ns/mnt")
	if err != nil {
		return fmt.Errorf("see whose socket it is: %w", err)
	}
	its, err := os.Stat(fmt.Sprintf("/proc/%d/ns/mnt", peer.Pid))
	if err != nil {
		return fmt.Errorf("see whose socket it is: %w", err)
	}
	if !os.SameFile(own, its) {
		return errors.New("the socket is not the agent's: a process in another mount namespace made it")
	}
	// A container's root may have made it in a process that has ended, whose number another has now. Kernels before 6.5 do not tell.
	if errors.Is(noPidfd, unix.ENOPROTOOPT) {
		return nil
	}
	if noPidfd == nil {
		noPidfd = unix.PidfdSendSignal(pidfd, 0, nil, 0)
	}
	if noPidfd != nil {
		return fmt.Errorf("the socket is not the agent's: the process that made it has ended (%w)", noPidfd)
	}
	return nil
}

// socketError is about a node without a socket of the task API that can be used.
type socketError struct {
	path string // of the task's own
	err  error  // about that
}

// tooLong reports whether waiting does not help: Nomad makes no socket at such a path.
func (e *socketError) tooLong() bool {
	return len(e.path) > maxSocketPath && errors.Is(e.err, fs.ErrNotExist)
}

func (e *socketError) Error() string {
	if e.tooLong() {
		return fmt.Sprintf("the task API's socket would have a path of %d bytes, and %d is the limit, so Nomad has not made it, and no other task of this node has one: "+
			"shorten the agent's data_dir, or set `address` in the plugin's secrets { nomad { } } block", len(e.path), maxSocketPath)
	}
	return fmt.Sprintf("no socket of Nomad's task API on this node can be used; the task's own, %s: %v", e.path, e.err)
}

func (e *socketError) Unwrap() error { return e.err }
