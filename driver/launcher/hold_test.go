package launcher

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher/internal/wire"
)

// app is a user without rights, for tests that need no container.
var app = Owner{1234, 1235}

// process is a launcher outside any container.
type process struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
}

func startProcess(t *testing.T, h *Hold, channel string) *process {
	path, err := install(executableDir(t))
	must.NoError(t, err)
	p := &process{Cmd: exec.Command(path, h.Args(channel)...)}
	p.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(app.UID), Gid: uint32(app.GID)}}
	p.Stdout, p.Stderr, p.Dir = &p.stdout, &p.stderr, "/"
	must.NoError(t, p.Start())
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
	return p
}

// executableDir is a directory that other users reach, which those of t.TempDir are not.
func executableDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "launcher-test-")
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(dir)) })
	must.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

// testChannel is a task's channel outside of any state directory.
func testChannel(t testing.TB) Channel {
	c := ChannelOf(executableDir(t), "f0a1b2c3-0000-1111-2222-333344445555", "web")
	must.NoError(t, c.Make())
	return c
}

func testHold(t *testing.T) (h *Hold, channel string) {
	channel = testChannel(t).Path()
	h, err := New(channel)
	must.NoError(t, err)
	t.Cleanup(h.Remove)
	return h, channel
}

// fifos are the paths of a hold's FIFOs.
func (h *Hold) fifos(dir string) []string {
	return []string{filepath.Join(dir, h.in.name), filepath.Join(dir, h.out.name)}
}

func empty(t *testing.T, dir string) {
	left, err := os.ReadDir(dir)
	must.NoError(t, err)
	must.SliceEmpty(t, left, must.Sprint("the FIFOs are removed"))
}

// L1: nobody but root reads the FIFOs before Release, and then nobody but the process's user.
func TestFIFOsAreTheProcesssOnly(t *testing.T) {
	h, channel := testHold(t)
	args := h.fifos(channel)
	owners := func(want Owner) {
		for i, path := range args {
			var st unix.Stat_t
			must.NoError(t, unix.Lstat(path, &st))
			must.Eq(t, want, Owner{int(st.Uid), int(st.Gid)})
			must.Eq(t, unix.S_IFIFO|[]uint32{0o400, 0o200}[i], st.Mode)
		}
	}
	owners(Owner{0, 0})
	ctx, cancel := context.WithCancel(context.Background())
	released := make(chan error)
	go func() { released <- h.Release(ctx, nil, app, Payload{Argv: []string{"true"}}) }()
	eventually(t, "the FIFOs are given away", func() bool {
		var a, b unix.Stat_t
		return unix.Lstat(args[0], &a) == nil && a.Uid == uint32(app.UID) && unix.Lstat(args[1], &b) == nil && b.Uid == uint32(app.UID)
	})
	owners(app)
	other := exec.Command("/bin/busybox", "cat", args[0])
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4321, Gid: 1235}}
	said, err := other.CombinedOutput()
	must.Error(t, err)
	must.StrContains(t, string(said), "Permission denied")
	cancel()
	must.ErrorIs(t, <-released, context.Canceled)
	empty(t, channel)
}

// A container's root with CAP_SYS_ADMIN may make its channel writable, and then put anything in the place of the
// FIFOs. Nothing but the driver's own FIFO is ever given away, written to, or waited for.
func TestReplacedFIFOs(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, path, victim string){
		"symlink":   func(t *testing.T, path, victim string) { must.NoError(t, os.Symlink(victim, path)) },
		"hard link": func(t *testing.T, path, victim string) { must.NoError(t, os.Link(victim, path)) },
		"directory": func(t *testing.T, path, victim string) { must.NoError(t, os.MkdirAll(path+"/below", 0o777)) },
		"fifo":      func(t *testing.T, path, victim string) { must.NoError(t, unix.Mkfifo(path, 0o666)) },
	} {
		t.Run(name, func(t *testing.T) {
			h, channel := testHold(t)
			victim := filepath.Join(filepath.Dir(channel), "victim")
			must.NoError(t, os.WriteFile(victim, []byte("untouched"), 0o600))
			for _, path := range h.fifos(channel) {
				must.NoError(t, os.Rename(path, path+"-moved"))
				replace(t, path, victim)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			err := h.Release(ctx, nil, app, Payload{Argv: []string{"true"}, Env: []string{"SECRET=" + canary}})
			must.ErrorIs(t, err, context.DeadlineExceeded)
			var st unix.Stat_t
			must.NoError(t, unix.Stat(victim, &st))
			must.Eq(t, Owner{0, 0}, Owner{int(st.Uid), int(st.Gid)})
			content, err := os.ReadFile(victim)
			must.NoError(t, err)
			must.Eq(t, "untouched", string(content))
		})
	}
}

func TestNothingWaitsForEver(t *testing.T) {
	t.Run("no launcher", func(t *testing.T) {
		h, channel := testHold(t)
		h.bound = 100 * time.Millisecond
		must.ErrorIs(t, h.Release(context.Background(), nil, app, Payload{Argv: []string{"true"}}), ErrTimeout)
		empty(t, channel)
	})
	t.Run("no driver", func(t *testing.T) {
		h, channel := testHold(t)
		h.bound = time.Second
		p := startProcess(t, h, channel)
		_ = p.Wait()
		must.Eq(t, notFound, p.ProcessState.ExitCode())
		must.StrContains(t, p.stderr.String(), "gave no command within 1 seconds")
	})
	t.Run("driver gone while the launcher reads", func(t *testing.T) {
		h, channel := testHold(t)
		p := startProcess(t, h, channel)
		in := half(t, h)
		must.NoError(t, in.Close())
		_ = p.Wait()
		must.Eq(t, notFound, p.ProcessState.ExitCode())
		must.StrContains(t, p.stderr.String(), "reading the payload: EOF")
	})
	t.Run("removed", func(t *testing.T) {
		h, channel := testHold(t)
		p := startProcess(t, h, channel)
		h.Remove()
		h.Remove()
		_ = p.Wait()
		must.Eq(t, notFound, p.ProcessState.ExitCode())
		must.StrContains(t, p.stderr.String(), "gave up this start")
		must.ErrorIs(t, h.Release(context.Background(), nil, app, Payload{Argv: []string{"true"}}), os.ErrClosed)
	})
	t.Run("killed before it comes", func(t *testing.T) {
		h, _ := testHold(t)
		gone := errors.New("the container is gone")
		err := h.Release(context.Background(), func() error { return gone }, app, Payload{Argv: []string{"true"}})
		must.ErrorIs(t, err, ErrEnded)
		must.ErrorIs(t, err, gone)
	})
	t.Run("stopped, and killed while it reads", func(t *testing.T) {
		h, channel := testHold(t)
		p := startProcess(t, h, channel)
		released := make(chan error, 1)
		// Far more than the FIFO has room for: the launcher is stopped somewhere in between.
		in := half(t, h)
		defer in.Close()
		must.NoError(t, p.Process.Signal(syscall.SIGSTOP))
		go func() {
			w := &waiter{ctx: context.Background(), alive: Alive(p.Process.Pid)}
			released <- w.write(in, make([]byte, 1<<20))
		}()
		must.NoError(t, p.Process.Kill())
		must.ErrorIs(t, <-released, ErrEnded)
	})
}

// half does Release's part up to the header, and returns "in".
func half(t *testing.T, h *Hold) *os.File {
	out, err := h.out.open(os.O_RDONLY)
	must.NoError(t, err)
	t.Cleanup(func() { _ = out.Close() })
	must.NoError(t, h.out.chown(app))
	must.NoError(t, h.in.chown(app))
	w := &waiter{ctx: context.Background(), alive: func() error { return nil }}
	in, err := h.openForWaiting(w)
	must.NoError(t, err)
	must.NoError(t, w.hello(out, wire.Version))
	message, err := wire.Encode(wire.Version, wire.Payload{Argv: []string{strings.Repeat("x", 4<<20)}})
	must.NoError(t, err)
	must.NoError(t, w.write(in, message[:wire.HeaderLen]))
	return in
}

// A plugin may be upgraded under a container: the launcher in it is then another version's.
// An app may have ended before anybody looks: that its launcher said Ready before is still there to read.
func TestAppThatEndsAtOnce(t *testing.T) {
	h, _ := testHold(t)
	out, err := h.out.open(os.O_RDONLY)
	must.NoError(t, err)
	defer out.Close()
	launcher, err := h.out.open(os.O_WRONLY)
	must.NoError(t, err)
	come := false
	w := &waiter{ctx: t.Context(), alive: func() error {
		if !come { // and gone, between the wait for its word and the look whether it lives
			come = true
			_, err := launcher.Write([]byte{wire.Ready})
			must.NoError(t, err)
			must.NoError(t, launcher.Close())
		}
		return errors.New("it is gone")
	}}
	must.NoError(t, w.result(out))
}

func TestLauncherOfAnotherVersion(t *testing.T) {
	h, channel := testHold(t)
	args := h.fifos(channel)
	go func() {
		out, err := os.OpenFile(args[1], os.O_WRONLY, 0)
		must.NoError(t, err)
		_, _ = out.Write([]byte{wire.Version + 1})
		in, err := os.Open(args[0])
		must.NoError(t, err)
		_, _ = in.Read(make([]byte, 1))
		_, _ = in.Close(), out.Close()
	}()
	err := h.Release(context.Background(), nil, app, Payload{Argv: []string{"true"}})
	must.ErrorContains(t, err, "the container's launcher speaks version 3, this plugin 2: restart the task")
}

// What a hostile container writes as an answer is bounded, and cannot disturb a log.
func TestHostileAnswers(t *testing.T) {
	for name, c := range map[string]struct{ answer, want string }{
		"long":    {"\x02R\x00\x00\x00\x02" + strings.Repeat("\n\x1b[31m", 1<<10), "??[31m"},
		"short":   {"\x02R\x00", "unexpected answer"},
		"another": {"\x02Q", "unexpected answer"},
		"nothing": {"\x02", ErrEnded.Error()},
	} {
		h, channel := testHold(t)
		args := h.fifos(channel)
		done := make(chan struct{})
		go func() {
			defer close(done)
			out, err := os.OpenFile(args[1], os.O_WRONLY, 0)
			must.NoError(t, err)
			in, err := os.Open(args[0])
			must.NoError(t, err)
			_, _ = out.Write([]byte(c.answer))
			header := make([]byte, wire.HeaderLen)
			_, err = io.ReadFull(in, header)
			must.NoError(t, err)
			n, err := wire.BodyLen(header)
			must.NoError(t, err)
			_, err = io.ReadFull(in, make([]byte, n))
			must.NoError(t, err)
			_, _ = out.Close(), in.Close()
		}()
		err := h.Release(context.Background(), nil, app, Payload{Argv: []string{"true"}})
		must.ErrorContains(t, err, c.want, must.Sprint(name))
		must.Less(t, 2*maxText, len(err.Error()))
		<-done
	}
}

func TestPayloadIsChecked(t *testing.T) {
	for want, p := range map[string]Payload{
		"no command specified": {},
		"NUL":                  {Argv: []string{"true"}, Env: []string{"A=" + canary + "\x00"}},
		"without a name":       {Argv: []string{"true"}, Env: []string{canary}},
		"too large":            {Argv: []string{"true"}, Env: []string{"A=" + strings.Repeat("x", 33<<20)}},
	} {
		h, channel := testHold(t)
		err := h.Release(context.Background(), nil, app, p)
		must.ErrorContains(t, err, want)
		must.StrNotContains(t, err.Error(), canary)
		empty(t, channel)
	}
}

// L4
func TestPayloadPrintsNothing(t *testing.T) {
	p := Payload{Argv: []string{canary}, Env: []string{"A=" + canary}}
	asJSON, err := json.Marshal(map[string]any{"p": p})
	must.NoError(t, err)
	for _, s := range []string{fmt.Sprint(p), fmt.Sprintf("%+v %#v %s %q %x", p, p, p, p, p), fmt.Sprintf("%v", &p), string(asJSON)} {
		must.StrNotContains(t, s, canary)
		must.StrContains(t, s, "[redacted]")
	}
}

func TestArgsShowTheCommand(t *testing.T) {
	h, _ := testHold(t)
	args := h.Args(ContainerChannel, "nginx", "-g", "daemon off;")
	must.Eq(t, []string{ContainerChannel, h.name, "60", "--", "nginx", "-g", "daemon off;"}, args)
	old, err := NewInSecrets(sticky(t))
	must.NoError(t, err)
	defer old.discard()
	args = old.Args("/secrets/", "nginx")
	must.Eq(t, []string{"/secrets/" + old.in.name, "/secrets/" + old.out.name, "60", "--", "nginx"}, args)
}

// userns-remap: the ids are the host's, whatever the process takes itself for.
func TestOwnerInUserNamespace(t *testing.T) {
	c := exec.Command("/bin/busybox", "sh", "-c", "id -u; id -g; read x")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		Credential:  &syscall.Credential{Uid: 5, Gid: 6},
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 1000}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 200000, Size: 1000}},
	}
	stdin, err := c.StdinPipe()
	must.NoError(t, err)
	stdout, err := c.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, c.Start())
	ids := make([]byte, 4)
	for n := 0; n < len(ids); {
		m, err := stdout.Read(ids[n:])
		must.NoError(t, err)
		n += m
	}
	must.Eq(t, "5\n6\n", string(ids))
	who, err := OwnerOf(c.Process.Pid)
	must.NoError(t, err)
	must.Eq(t, Owner{100005, 200006}, who)

	alive := Alive(c.Process.Pid)
	must.NoError(t, alive())
	must.NoError(t, stdin.Close())
	eventually(t, "a zombie is not alive", func() bool { return alive() != nil })
	_ = c.Wait()
	must.Error(t, alive())
	_, err = OwnerOf(c.Process.Pid)
	must.Error(t, err)
}
