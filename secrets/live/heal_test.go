package live

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/mountinfo"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

// healing is a feeder that places its directories again when it is told to.
func (n *node) healing(name string, dirs ...string) *Feeder {
	var f *Feeder
	ready := make(chan struct{})
	f = n.feeder(name, func(c *Config) {
		c.Healed = func(ctx context.Context) {
			<-ready
			for _, d := range dirs {
				source, err := f.Source(ctx, d)
				if err == nil {
					err = Place(source, filepath.Join(n.shared, d))
				}
				if err != nil {
					n.t.Log("heal:", err)
				}
			}
		}
	})
	close(ready)
	return f
}

// container is a process in a mount namespace of its own, which has target at /mnt as containers have it: a slave.
func (n *node) container(target string) (read func(name string) error) {
	cmd := exec.Command("unshare", "--mount", "--propagation", "slave", "sh", "-c", "mount --bind "+target+" /mnt && echo up && sleep 1000")
	out, err := cmd.StdoutPipe()
	must.NoError(n.t, err)
	must.NoError(n.t, cmd.Start())
	n.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	up := make([]byte, 3)
	_, err = out.Read(up)
	must.NoError(n.t, err)
	return func(name string) error {
		got, err := exec.Command("nsenter", "-t", strconv.Itoa(cmd.Process.Pid), "-m", "cat", "/mnt/"+name).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, got)
		}
		if string(got) != "x" {
			return fmt.Errorf("%q", got)
		}
		return nil
	}
}

func TestAFileServerThatDiesIsReplaced(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"kill": syscall.SIGKILL, "hang": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			one, two := n.healing("docker", "a"), n.healing("volumes", "b")
			a := n.placed(one, Directory{Name: "a"}, "v", "x")
			b := n.placed(two, Directory{Name: "b"}, "v", "x")
			inside := n.container(a)
			must.NoError(t, inside("v"))
			for range 3 {
				pid := n.serverPID()
				must.Positive(t, pid)
				must.NoError(t, syscall.Kill(pid, signal))
				begin := time.Now()
				for _, read := range []func() error{
					wantFile(filepath.Join(a, "v"), "x"), wantFile(filepath.Join(b, "v"), "x"), func() error { return inside("v") },
				} {
					eventually(t, 4*time.Second, func() error {
						if n.serverPID() == pid { // a read would wait for the hung one
							return errors.New("still the old file server")
						}
						return read()
					})
				}
				t.Logf("healed in %s", time.Since(begin))
			}
			// At the end nothing is left.
			must.NoError(t, Clear(a))
			must.NoError(t, Clear(b))
			must.NoError(t, one.Withdraw(t.Context(), "a"))
			must.NoError(t, two.Withdraw(t.Context(), "b"))
			n.nothingLeft()
		})
	}
}

// nothingLeft waits until there is neither a file server nor a mount of one.
func (n *node) nothingLeft() {
	n.t.Helper()
	eventually(n.t, 15*time.Second, func() error {
		if _, err := os.Stat(home{n.dir}.socket()); !os.IsNotExist(err) {
			return fmt.Errorf("socket: %w", err)
		}
		mounts, err := mountinfo.Self()
		for _, m := range mounts {
			if strings.HasPrefix(m.Point, n.dir) || strings.HasPrefix(m.Point, n.shared+"/") {
				return fmt.Errorf("mounted: %+v", m)
			}
		}
		return err
	})
}

func TestDirectoriesOutliveTheirFeeder(t *testing.T) {
	n := newNode(t)
	f := n.feeder("docker", nil)
	dir := n.placed(f, Directory{Name: "a"}, "v", "x")
	pid := n.serverPID()
	f.Close()
	must.NoError(t, wantFile(filepath.Join(dir, "v"), "x")())

	again := n.feeder("docker", nil)
	source, err := again.Declare(t.Context(), Directory{Name: "a", Stale: time.Hour})
	must.NoError(t, err)
	must.NoError(t, Place(source, dir))
	must.NoError(t, wantFile(filepath.Join(dir, "v"), "x")())
	must.Eq(t, pid, n.serverPID())
	users, err := Users(dir)
	must.NoError(t, err)
	must.Zero(t, users)
	inside := n.container(dir)
	must.NoError(t, inside("v"))
	users, err = Users(dir)
	must.NoError(t, err)
	must.Eq(t, 1, users)
}

func TestFeedersDoNotSeeEachOthersDirectories(t *testing.T) {
	n := newNode(t)
	one, two := n.feeder("docker", nil), n.feeder("volumes", nil)
	_ = n.placed(one, Directory{Name: "a"}, "v", "x")
	source, err := two.Declare(t.Context(), Directory{Name: "a", Stale: time.Hour})
	must.NoError(t, err)
	must.NoError(t, two.Set(t.Context(), "a", fields("v", "other"), time.Now()))
	must.NoError(t, wantFile(filepath.Join(n.shared, "a", "v"), "x")())
	must.NoError(t, two.Withdraw(t.Context(), "a"))
	must.NoError(t, wantFile(filepath.Join(n.shared, "a", "v"), "x")())
	_, err = read(filepath.Join(source, "v"))
	must.Error(t, err)
}

func TestWhatCannotBeServedIsRefused(t *testing.T) {
	n := newNode(t)
	f := n.feeder("docker", nil)
	dir := n.placed(f, Directory{Name: "a"}, "v", "x")
	mib := strings.Repeat("m", 1<<20)
	err := f.Set(t.Context(), "a", fields("v", mib+"m"), time.Now())
	must.ErrorContains(t, err, "at most 1048576")
	err = f.Set(t.Context(), "a", fields("a/../b", ""), time.Now())
	must.ErrorContains(t, err, "cannot be the name of a file")
	must.NoError(t, wantFile(filepath.Join(dir, "v"), "x")())

	// 64 MiB on a node, whoever has them.
	var many []string
	for i := range 40 {
		many = append(many, fmt.Sprint("f", i), mib)
	}
	must.NoError(t, f.Set(t.Context(), "a", fields(many...), time.Now()))
	must.NoError(t, f.Set(t.Context(), "a", fields(many...), time.Now()))
	_, err = f.Declare(t.Context(), Directory{Name: "b", Stale: time.Hour})
	must.NoError(t, err)
	err = f.Set(t.Context(), "b", fields(many...), time.Now())
	must.ErrorContains(t, err, "the bound is 67108864")
	must.NoError(t, wantFile(filepath.Join(dir, "f39"), mib)())
}

// What has more to do than the machine can is not taken for what hangs.
func TestABusyProcessDoesNotHang(t *testing.T) {
	for script, busy := range map[string]bool{"while :; do :; done": true, "kill -STOP $$": false, "exec sleep 1000": false} {
		cmd := exec.Command("sh", "-c", script)
		must.NoError(t, cmd.Start())
		eventually(t, 5*time.Second, func() error {
			if got := (process{pid: cmd.Process.Pid}).busy(); got != busy {
				return fmt.Errorf("%s: %t", script, got)
			}
			return nil
		})
		must.NoError(t, cmd.Process.Kill())
		must.Error(t, cmd.Wait())
	}
	must.False(t, process{pid: 1 << 30}.busy())
}

// A secret whose names are so long that no message has room for them is refused, and nobody else's directories suffer from it:
// not the connection, nor the next one.
func TestNamesThatCannotBeSentAreRefused(t *testing.T) {
	n := newNode(t)
	f := n.healing("docker", "a")
	dir := n.placed(f, Directory{Name: "a"}, "v", "x")
	var long []Field
	for i := range 1500 { // as JSON writes them they have 8 MiB
		path := fmt.Sprintf("%04d/", i) + strings.TrimSuffix(strings.Repeat(strings.Repeat("<", 240)+"/", 4), "/")
		long = append(long, fields(path, "")...)
	}
	_, err := f.Declare(t.Context(), Directory{Name: "b", Stale: time.Hour})
	must.NoError(t, err)
	must.ErrorContains(t, f.Set(t.Context(), "b", long, time.Now()), "at most 1048576")

	c, err := dial(t.Context(), home{n.dir}.socket(), "other")
	must.NoError(t, err)
	defer c.close()
	_, err = c.call(t.Context(), wire.Message{Type: wire.Set, Dir: "b", Fields: wireFields(long)})
	var no refusal
	must.True(t, errors.As(err, &no), must.Sprint(err))
	_, err = c.call(t.Context(), wire.Message{Type: wire.Ping})
	must.NoError(t, err)

	// Of a secret's fields those are served that have room.
	object := map[string]any{}
	for i := range 6000 {
		object[fmt.Sprintf("%04d%s", i, strings.Repeat("<", 250))] = "v"
	}
	some, err := Flatten(secrets.NewFields(object))
	must.Error(t, err)
	must.NoError(t, f.Set(t.Context(), "b", some, time.Now()))
	n.killServer()
	eventually(t, 5*time.Second, wantFile(filepath.Join(dir, "v"), "x"))
}

func TestWithoutDevFuseTheErrorSaysSo(t *testing.T) {
	n := newNode(t)
	// A mount namespace in which /dev/fuse is none: the test binary runs this test there.
	if os.Getenv("LIVE_TEST_NO_FUSE") == "" {
		cmd := exec.Command("unshare", "--mount", "--propagation", "slave", "sh", "-c",
			`mount -t tmpfs none /dev && touch /dev/null && exec "$0" -test.run '^TestWithoutDevFuseTheErrorSaysSo$'`, os.Args[0])
		cmd.Env = append(os.Environ(), "LIVE_TEST_NO_FUSE=1")
		out, err := cmd.CombinedOutput()
		must.NoError(t, err, must.Sprint(string(out)))
		return
	}
	n.refused("is there a /dev/fuse (modprobe fuse)?")
}

func TestWithoutRightsTheErrorSaysSo(t *testing.T) {
	if os.Getenv("LIVE_TEST_NO_RIGHTS") == "" {
		cmd := exec.Command("setpriv", "--bounding-set", "-sys_admin", os.Args[0], "-test.run", "^TestWithoutRightsTheErrorSaysSo$")
		cmd.Env = append(os.Environ(), "LIVE_TEST_NO_RIGHTS=1")
		out, err := cmd.CombinedOutput()
		must.NoError(t, err, must.Sprint(string(out)))
		return
	}
	dir := t.TempDir()
	must.ErrorContains(t, SharedDir(filepath.Join(dir, "shared")), "root with CAP_SYS_ADMIN is needed")
	n := &node{t: t, dir: filepath.Join(dir, "live")}
	n.refused("root with CAP_SYS_ADMIN is needed")
}

// refused is about a node that has no file server, and can have none: that is the error each time, and nothing is left.
func (n *node) refused(want string) {
	n.t.Helper()
	f := n.feeder("docker", nil)
	for range 2 {
		_, err := f.Declare(n.t.Context(), Directory{Name: "a"})
		must.ErrorContains(n.t, err, want)
	}
	must.Zero(n.t, n.serverPID())
	mounts, err := mountinfo.Self()
	must.NoError(n.t, err)
	for _, m := range mounts {
		must.NotEq(n.t, home{n.dir}.root(), m.Point)
	}
}
