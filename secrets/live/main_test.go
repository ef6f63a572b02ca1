package live

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/mountinfo"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/running"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(feederEnv); dir != "" {
		fmt.Fprintln(os.Stderr, feedForEver(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// node is a state directory with a shared mount, as on a real node.
type node struct {
	t      *testing.T
	dir    string // root's
	shared string
}

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("live directories need root: run as root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must.NoError(t, err)
	n := &node{t, filepath.Join(dir, "live"), filepath.Join(dir, "shared")}
	must.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	must.NoError(t, SharedDir(n.shared))
	t.Cleanup(func() {
		n.killServer()
		must.NoError(t, Clear(home{n.dir}.root()))
		mounts, err := mountinfo.Self()
		must.NoError(t, err)
		for _, m := range mounts {
			if filepath.Dir(m.Point) == n.shared {
				must.NoError(t, Clear(m.Point))
			}
		}
		must.NoError(t, Clear(n.shared))
	})
	return n
}

func (n *node) feeder(name string, also func(*Config)) *Feeder {
	cfg := Config{Feeder: name, Dir: n.dir, Log: hclog.New(&hclog.LoggerOptions{Name: name, Level: hclog.Debug, Output: testWriter{n.t}})}
	if also != nil {
		also(&cfg)
	}
	f := Open(cfg)
	n.t.Cleanup(f.Close)
	return f
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// serverPID is the file server's process; 0: none.
func (n *node) serverPID() int {
	c, err := dial(n.t.Context(), home{n.dir}.socket(), "test")
	if err != nil {
		return 0
	}
	defer c.close()
	return c.peer.pid
}

func (n *node) killServer() { running.Signal(home{n.dir}.root(), syscall.SIGKILL) }

// servers are the file servers' processes, whether they answer or not.
func (n *node) servers() []int { return running.Servers(home{n.dir}.root()) }

// target makes a place for a directory.
func (n *node) target(name string) string {
	dir := filepath.Join(n.shared, name)
	must.NoError(n.t, os.MkdirAll(dir, 0o700))
	return dir
}

func fields(kv ...string) []Field {
	var list []Field
	for i := 0; i < len(kv); i += 2 {
		list = append(list, Field{kv[i], secrets.TextValue(kv[i+1])})
	}
	return list
}

// placed declares a directory, sets it and places it.
func (n *node) placed(f *Feeder, d Directory, kv ...string) string {
	n.t.Helper()
	if d.Stale == 0 {
		d.Stale = time.Hour
	}
	source, err := f.Declare(n.t.Context(), d)
	must.NoError(n.t, err)
	must.NoError(n.t, f.Set(n.t.Context(), d.Name, fields(kv...), time.Now()))
	target := n.target(d.Name)
	must.NoError(n.t, Place(source, target))
	return target
}

// read does not use os.File: the runtime's poller has no business with a file system that may hang.
func read(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var all []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return "", err
		}
		if n == 0 {
			return string(all), nil
		}
		all = append(all, buf[:n]...)
	}
}

// eventually asks until the answer is no error.
func eventually(t *testing.T, within time.Duration, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %v", within, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func wantFile(path, content string) func() error {
	return func() error {
		got, err := read(path)
		if err == nil && got != content {
			err = fmt.Errorf("%s: %.60q", path, got)
		}
		return err
	}
}
