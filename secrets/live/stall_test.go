package live

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
)

// feederEnv makes this test binary a feeder, to be stopped and resumed. Its value is the node's directory for file servers.
const feederEnv = "LIVE_TEST_FEEDER"

// feedForEver gives a file server large values, over and over, and has them placed again.
func feedForEver(dir string) error {
	target := filepath.Join(filepath.Dir(dir), "shared", "a")
	var f *Feeder
	ready := make(chan struct{})
	f = Open(Config{
		Feeder: "docker", Dir: dir, Log: hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Debug}),
		Healed: func(ctx context.Context) {
			<-ready
			if source, err := f.Source(ctx, "a"); err == nil {
				_ = Place(source, target)
			}
		},
	})
	close(ready)
	ctx := context.Background()
	source, err := f.Declare(ctx, Directory{Name: "a", Stale: time.Hour})
	if err != nil {
		return err
	}
	var kv []string
	for i := range 16 {
		kv = append(kv, fmt.Sprint("f", i), strings.Repeat("m", 1<<20))
	}
	for placed := false; ; placed = true {
		if err := f.Set(ctx, "a", fields(kv...), time.Now()); err != nil {
			return err
		}
		if !placed {
			if err := Place(source, target); err != nil {
				return err
			}
		}
	}
}

// A feeder's process that is stopped while it feeds, for long or over and over for a moment, ends no file server that answers. One that
// hangs is ended by it all the same.
func TestAFeederThatIsStoppedEndsNoFileServer(t *testing.T) {
	n := newNode(t)
	path := filepath.Join(n.target("a"), "f0")
	var log lines
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), feederEnv+"="+n.dir)
	cmd.Stderr = &log
	must.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	value := strings.Repeat("m", 1<<20)
	eventually(t, 20*time.Second, wantFile(path, value))
	server := n.servers()
	must.Len(t, 1, server)
	stop := func(stopped, runs time.Duration) {
		must.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
		time.Sleep(stopped)
		must.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
		time.Sleep(runs)
	}
	for range 3 {
		stop(1500*time.Millisecond, 100*time.Millisecond)
	}
	for range 30 {
		stop(pingEvery, 5*time.Millisecond)
	}
	must.NoError(t, wantFile(path, value)())
	must.Eq(t, server, n.servers())
	must.StrNotContains(t, log.String(), errHung.Error())

	must.NoError(t, syscall.Kill(server[0], syscall.SIGSTOP))
	eventually(t, 10*time.Second, func() error {
		if now := n.servers(); len(now) != 1 || now[0] == server[0] {
			return fmt.Errorf("the file server is still %v", now)
		}
		if !strings.Contains(log.String(), errHung.Error()) {
			return errors.New("nothing was logged")
		}
		return wantFile(path, value)()
	})
	must.StrContains(t, log.String(), fmt.Sprintf("killed process %d", server[0]))
}

// A file server that hangs while nobody is connected is ended by the next feeder's hello, which says so in its log.
func TestAHangIsFoundByTheNextFeeder(t *testing.T) {
	n := newNode(t)
	first := n.feeder("docker", nil)
	dir := n.placed(first, Directory{Name: "a"}, "v", "x")
	first.Close()
	server := n.servers()
	must.Len(t, 1, server)
	must.NoError(t, syscall.Kill(server[0], syscall.SIGSTOP))

	var log lines
	next := n.feeder("docker", func(c *Config) { c.Log = hclog.New(&hclog.LoggerOptions{Output: &log}) })
	source, err := next.Declare(t.Context(), Directory{Name: "a", Stale: time.Hour})
	must.NoError(t, err)
	must.NoError(t, next.Set(t.Context(), "a", fields("v", "y"), time.Now()))
	must.NoError(t, Place(source, dir))
	must.NoError(t, wantFile(filepath.Join(dir, "v"), "y")())
	must.StrContains(t, log.String(), "[WARN]")
	must.StrContains(t, log.String(), fmt.Sprintf(`during=hello error="the file server hangs: killed process %d"`, server[0]))
}
