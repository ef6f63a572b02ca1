package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
)

// home is where the file servers of a node are found, one for each version of the protocol: a directory of root's alone.
type home struct{ dir string }

func (h home) name(suffix string) string {
	return filepath.Join(h.dir, fmt.Sprintf("v%d%s", wire.Version, suffix))
}
func (h home) socket() string   { return h.name(".sock") }
func (h home) lockFile() string { return h.name(".lock") }
func (h home) root() string     { return h.name("") }

// lock is held by who starts a file server, or clears up after one.
func (h home) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(h.dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(h.lockFile(), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", h.lockFile(), err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for who starts a file server: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// tidy takes away what a file server left that is no more. The lock is held. The socket goes last: it is the sign that there is
// something to take away.
func (h home) tidy() error {
	if err := Clear(h.root()); err != nil {
		return err
	}
	if err := os.Remove(h.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// start starts a file server. The lock is held, and there is none.
func (h home) start(ctx context.Context) error {
	if err := h.tidy(); err != nil {
		return err
	}
	if err := os.MkdirAll(h.root(), 0o700); err != nil {
		return err
	}
	socket, err := h.bind()
	if err != nil {
		return err
	}
	defer socket.Close()
	exe, err := programFile()
	if err != nil {
		return err
	}
	defer exe.Close()

	// Only the program's own errors come over this pipe: what goes on has none of it.
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, beneath.PathOf(exe))
	cmd.Args = []string{"nomad-driver-secrets-live", "start", h.root()}
	if c := seLinuxContext(); c != "" {
		cmd.Args = append(cmd.Args, c)
	}
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		if text := strings.TrimSpace(stderr.String()); text != "" {
			return errors.New(text)
		}
		return fmt.Errorf("start the file server: %w", err)
	}
	return nil
}

// bind makes the socket. The file server listens on it, which also makes the kernel name it as the peer of who connects.
func (h home) bind() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: h.socket()}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind %s: %w", h.socket(), err)
	}
	return os.NewFile(uintptr(fd), h.socket()), nil
}

// programFile is the file server's program, in memory: /run, where all else of it is, may be mounted noexec, and an upgrade
// of the plugin must not change the program of one that runs.
func programFile() (*os.File, error) {
	const mfdExec = 0x10 // Linux 6.3: said, so that a node that forbids it by default still allows it
	fd, err := unix.MemfdCreate("live-server", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|mfdExec)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("live-server", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("memory for the file server's program (sysctl vm.memfd_noexec must be 0 or 1): %w", err)
	}
	f := os.NewFile(uintptr(fd), "live-server")
	if _, err := f.Write(program); err != nil {
		_ = f.Close()
		return nil, err
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("seal the file server's program: %w", err)
	}
	return f, nil
}

// seLinuxContext is that of files which every container may read; empty without SELinux.
func seLinuxContext() string {
	process, file := selinux.ContainerLabels()
	defer selinux.ReleaseLabel(process)
	if file == "" {
		return ""
	}
	context, err := selinux.NewContext(file)
	if err != nil {
		return ""
	}
	context["level"] = "s0"
	return context.Get()
}
