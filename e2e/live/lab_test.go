// Package live tests live directories and the Docker volume driver with a real Vault and a Docker engine of its own, which
// it can stop and kill.
package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/running"
)

// lab is what all tests share.
var lab struct {
	*harness.Cluster
	engine *harness.Engine
	turns  *harness.Agent // of the tests that take turns, once there is one
	token  string         // of the volume drivers
}

// full is whether the tests take the numbers of the contract even where that takes long, with LIVE_FULL=1.
func full() bool { return os.Getenv("LIVE_FULL") == "1" }

// times is a number of repetitions.
func times(ordinary, inFull int) int {
	if full() {
		return inFull
	}
	return ordinary
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	err := setUp(ctx)
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, "e2e/live:", err)
	}
	if lab.turns != nil { // while its engine is there
		err = errors.Join(err, lab.turns.Close())
	}
	if lab.engine != nil {
		err = errors.Join(err, lab.engine.Close())
	}
	if lab.Cluster != nil {
		err = errors.Join(err, lab.Cluster.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e/live: clean up:", err)
		return 1
	}
	return code
}

func setUp(ctx context.Context) (err error) {
	if lab.Cluster, err = harness.StartBare(ctx); err != nil {
		return err
	}
	if lab.engine, err = lab.NewEngine(ctx, "engine"); err != nil {
		return err
	}
	if err := lab.Vault.EnableKV2(ctx, "secret"); err != nil {
		return err
	}
	if err := lab.Vault.Policy(ctx, "volumes", `path "secret/data/*" { capabilities = ["read"] }`); err != nil {
		return err
	}
	made, err := lab.Vault.Client().Auth().Token().CreateWithContext(ctx, &api.TokenCreateRequest{Policies: []string{"volumes"}, TTL: "2h"})
	if err != nil {
		return err
	}
	lab.token = made.Auth.ClientToken
	if err := buildReader(ctx); err != nil {
		return err
	}
	return errors.Join(makeBusybox(ctx, lab.engine.Host), makeGlibc(ctx, lab.engine.Host))
}

// docker runs the command line as an operator would.
func docker(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return dockerAt(t, lab.engine, args...)
}

// dockerAt is for another engine.
func dockerAt(t *testing.T, engine *harness.Engine, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", append([]string{"-H", engine.Host}, args...)...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return out.String(), nil
}

func mustDocker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := docker(t, args...)
	must.NoError(t, err)
	return out
}

// daemon is a volume driver.
type daemon struct {
	t    *testing.T
	name string // of the driver
	dir  string

	binary  string
	args    []string
	wrapper []string // what starts it, if it is not started directly
	files   []*os.File

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
}

var daemons atomic.Int32

// startDaemon starts a volume driver of the test's own, whose token may read what the tests write.
func startDaemon(t *testing.T, args ...string) *daemon {
	t.Helper()
	d := newDaemon(t, args...)
	d.start()
	return d
}

// newDaemon is for one that is to be started in a way of its own.
func newDaemon(t *testing.T, args ...string) *daemon {
	t.Helper()
	name := fmt.Sprintf("live-%d-%d", os.Getpid(), daemons.Add(1))
	// Not t.TempDir: paths of sockets are short, and the engine's containers must be gone before.
	dir := filepath.Join(lab.Dir(), name)
	must.NoError(t, os.MkdirAll(dir, 0o755))
	d := &daemon{t: t, name: name, dir: dir, binary: lab.Plugin()}
	must.NoError(t, os.WriteFile(d.token(), []byte(lab.token+"\n"), 0o600))
	d.args = append([]string{
		"volume-driver", "-address", lab.Vault.Addr, "-token-file", d.token(), "-allow", "secret/*", "-log-level", "debug",
		"-socket", d.socket(), "-state-dir", d.path("state"), "-run-dir", d.path("run"),
	}, args...)
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(d.path("log"))
			t.Logf("the volume driver's log:\n%s", log[max(0, len(log)-6000):])
		}
		d.end()
		if d.cmd != nil {
			d.stop(syscall.SIGTERM)
		}
		d.killServer()
		for _, m := range mountsBelow(t, dir) {
			_ = syscall.Unmount(m, syscall.MNT_DETACH)
		}
		_ = os.Remove(d.socket())
	})
	return d
}

func (d *daemon) token() string           { return d.path("token") }
func (d *daemon) path(name string) string { return filepath.Join(d.dir, name) }
func (d *daemon) socket() string          { return "/run/docker/plugins/" + d.name + ".sock" }

func (d *daemon) start() {
	d.t.Helper()
	out, err := os.OpenFile(d.path("log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	must.NoError(d.t, err)
	defer out.Close()
	command := append(append(slices.Clone(d.wrapper), d.binary), d.args...)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, out, d.files
	must.NoError(d.t, cmd.Start())
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	d.mu.Lock()
	d.cmd, d.done = cmd, done
	d.mu.Unlock()
	must.NoError(d.t, harness.Until(d.t.Context(), "the volume driver", func() error {
		c, err := net.Dial("unix", d.socket())
		if err == nil {
			_ = c.Close()
		}
		return err
	}))
}

func (d *daemon) stop(sig syscall.Signal) {
	d.mu.Lock()
	cmd, done := d.cmd, d.done
	d.mu.Unlock()
	_ = cmd.Process.Signal(sig)
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		_ = cmd.Process.Kill()
		<-done
		d.t.Error("the volume driver does not end")
	}
}

// end removes the containers and volumes of the driver.
func (d *daemon) end() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	run := func(args ...string) []string {
		out, _ := exec.CommandContext(ctx, "docker", append([]string{"-H", lab.engine.Host}, args...)...).Output()
		return strings.Fields(string(out))
	}
	volumes := run("volume", "ls", "-q", "-f", "driver="+d.name)
	remove := []string{"rm", "-f", "-v"}
	for _, volume := range volumes {
		remove = append(remove, run("ps", "-aq", "-f", "volume="+volume)...)
	}
	run(remove...)
	run(append([]string{"volume", "rm", "-f"}, volumes...)...)
}

// servers are the file servers of the daemon.
func (d *daemon) servers() []int { return running.Servers(d.dir) }

func (d *daemon) killServer() { running.Signal(d.dir, syscall.SIGKILL) }

func mountsBelow(t *testing.T, dir string) []string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	must.NoError(t, err)
	var list []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], dir+"/") {
			list = append([]string{f[4]}, list...)
		}
	}
	return list
}

// put writes a secret.
func put(t *testing.T, path string, kv ...string) {
	t.Helper()
	fields := map[string]any{}
	for i := 0; i < len(kv); i += 2 {
		fields[kv[i]] = kv[i+1]
	}
	must.NoError(t, lab.Vault.PutKV2(t.Context(), "secret", path, fields))
}
