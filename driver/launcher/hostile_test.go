package launcher

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher/internal/wire"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/hostile"
)

const attackDirs = "LAUNCHER_TEST_ATTACK"

// TestHostileProcess is the attacker's process: it runs in a copy of this test, as another user.
func TestHostileProcess(t *testing.T) {
	dirs := os.Getenv(attackDirs)
	if dirs == "" {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	a := &hostile.Attacker{Dirs: strings.Split(dirs, ":"), Command: []string{"/bin/busybox", "echo", "owned"}}
	_ = a.Report(ctx, os.Stdout)
}

// attacker is a hostile process of user 4242.
type attacker struct {
	counts atomic.Pointer[hostile.Counts]
}

func newAttacker(t *testing.T, dirs ...string) *attacker {
	self, err := os.ReadFile(os.Args[0])
	must.NoError(t, err)
	copied := filepath.Join(executableDir(t), "hostile")
	must.NoError(t, os.WriteFile(copied, self, 0o755))
	cmd := exec.Command(copied, "-test.run=^TestHostileProcess$")
	cmd.Env, cmd.Dir = []string{attackDirs + "=" + strings.Join(dirs, ":")}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4242, Gid: 4242}}
	out, err := cmd.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, cmd.Start())
	a := &attacker{}
	a.counts.Store(&hostile.Counts{})
	read := make(chan struct{})
	go func() {
		defer close(read)
		hostile.Follow(out, a.counts.Store)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
	})
	return a
}

// tries waits until the attacker has made n attempts more than before, or one that worked.
func (a *attacker) tries(t *testing.T, before *hostile.Counts, n int64) {
	t.Helper()
	eventually(t, "attempts", func() bool {
		now := a.counts.Load()
		return now.Attempts >= before.Attempts+n || now.Replaced > before.Replaced
	})
}

// L1: another user's process goes after every start's FIFOs. As they were in the version before, it has its own
// command run as root. In a channel nothing of what it tries works, and every start comes out right; and so it is for the
// containers of the version before, since their secrets directory is root's and sticky.
func TestAnotherUsersProcess(t *testing.T) {
	unchecked := func(version byte) func(string) (*Hold, error) {
		return func(dir string) (*Hold, error) {
			return newHold(version, dir, func(unix.Stat_t) error { return nil })
		}
	}
	before := func(dir string) (*Hold, error) {
		h, err := unchecked(wire.InSecrets)(dir)
		if err != nil {
			return nil, err
		}
		name := h.name + "-out" // both had one name
		if err := os.Rename(filepath.Join(dir, h.out.name), filepath.Join(dir, name)); err != nil {
			return nil, err
		}
		h.out.name = name
		return h, nil
	}
	nomads := func() string {
		dir := sticky(t)
		must.NoError(t, os.Chmod(dir, 0o777))
		return dir
	}
	for name, c := range map[string]struct {
		dir     func() string
		hold    func(dir string) (*Hold, error)
		program []byte
		starts  int
		owned   bool // an attack works, sooner or later
		safe    bool // every start comes out right
	}{
		"the version before":  {nomads, before, olderLauncher(t), 20, true, false},
		"the launcher looks":  {nomads, unchecked(wire.Version), binary, 5, false, false},
		"a channel":           {func() string { return testChannel(t).Path() }, New, binary, 200, false, true},
		"an upgrade under it": {func() string { return sticky(t) }, NewInSecrets, olderLauncher(t), 200, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			program := filepath.Join(executableDir(t), "launcher")
			must.NoError(t, os.WriteFile(program, c.program, 0o755))
			dir := c.dir()
			a := newAttacker(t, dir)
			owned, ran := 0, 0
			for range c.starts {
				before := a.counts.Load()
				hold, err := c.hold(dir)
				if err != nil { // it was in between
					t.Log(err)
					continue
				}
				out, err := underAttack(t, a, before, hold, program, dir)
				switch {
				case strings.Contains(out, "owned"):
					owned++
				case out == "mine\n" && err == nil:
					ran++
				case c.safe:
					t.Logf("a start did not come out right: %v: %q", err, out)
				}
				if c.owned && owned > 0 {
					break
				}
			}
			n := *a.counts.Load()
			t.Logf("%d of %d starts were taken over, %d came out right: %+v", owned, c.starts, ran, n)
			if c.owned {
				must.Positive(t, owned, must.Sprint("the attacker can do nothing: this proves nothing"))
				return
			}
			must.Zero(t, owned)
			must.Zero(t, n.Injected)
			if c.safe {
				must.Eq(t, c.starts, ran)
				must.GreaterEq(t, 1000, n.Attempts)
				if name == "a channel" {
					must.Zero(t, n.Replaced) // in the other directory all may make files, and no launcher looks
				}
				must.Eq(t, hostile.Counts{Attempts: n.Attempts, Replaced: n.Replaced}, n)
			}
		})
	}
}

// underAttack starts a launcher as root once the attacker has had its turn at the FIFOs, and gives what the
// program that it became has printed.
func underAttack(t *testing.T, a *attacker, before *hostile.Counts, hold *Hold, program, dir string) (string, error) {
	cmd := exec.Command(program, hold.Args(dir)...)
	cmd.Args[3] = "2" // seconds
	visible := exec.Command("/bin/busybox", "sh", "-c", "read line", hold.name)
	in, err := visible.StdinPipe()
	must.NoError(t, err)
	defer in.Close()
	released := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	// A launcher's arguments can be seen by all, before it has begun to look.
	must.NoError(t, visible.Start())
	a.tries(t, before, 5)
	must.NoError(t, visible.Process.Kill())
	_ = visible.Wait()
	go func() {
		released <- hold.Release(ctx, nil, Owner{}, Payload{Argv: []string{"/bin/busybox", "echo", "mine"}})
	}()
	out, err := cmd.Output()
	cancel()
	<-released
	return string(out), err
}

// olderLauncher is the launcher of the version before channels.
func olderLauncher(t *testing.T) []byte {
	t.Helper()
	program := filepath.Join(t.TempDir(), "launcher")
	build := exec.Command("go", "build", "-o", program, "./testdata/v1")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	said, err := build.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(said)))
	built, err := os.ReadFile(program)
	must.NoError(t, err)
	return built
}
