// Package live tests live directories and the Docker volume driver with a real Vault and a Docker engine of its own, which
// it can stop and kill.
package live

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/shoenig/test/must"
	"golang.org/x/sync/errgroup"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// lab is what all tests share.
var lab struct {
	*harness.Cluster
	engine  *harness.Engine
	token   string // of the volume drivers
	busybox string // images
	glibc   string
	// The same with USER app.
	busyboxApp string
	glibcApp   string
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
	if lab.engine != nil {
		err = lab.engine.Close()
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
	return makeImages(ctx)
}

// makeImages makes one image of busybox and one of this machine's own glibc programs, both with the reader.
func makeImages(ctx context.Context) error {
	root, err := harness.RepoRoot()
	if err != nil {
		return err
	}
	reader := filepath.Join(lab.Dir(), "bin", "reader")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", reader, "./e2e/live/reader")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the reader: %w\n%s", err, out)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	lab.busybox, lab.glibc = "live/busybox", "live/glibc"
	lab.busyboxApp, lab.glibcApp = "live/busybox-app", "live/glibc-app"
	applets, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return err
	}
	if err := importImage(ctx, lab.busybox, map[string]string{reader: "/bin/reader", busybox: "/bin/busybox"}, strings.Fields(string(applets)), nil); err != nil {
		return err
	}
	if err := asApp(ctx, lab.busybox, lab.busyboxApp); err != nil {
		return err
	}
	files, err := glibcFiles(ctx, "bash", "cat", "cp", "dd", "find", "head", "id", "ln", "ls", "mkdir", "mount", "mv", "rm", "sha256sum", "sleep", "tail", "tar", "touch", "truncate", "chmod", "umount")
	if err != nil {
		return err
	}
	files[reader] = "/bin/reader"
	if err := importImage(ctx, lab.glibc, files, nil, map[string]string{"/bin/sh": "bash"}); err != nil {
		return err
	}
	return asApp(ctx, lab.glibc, lab.glibcApp)
}

// asApp makes an image that has USER app of one that has not.
func asApp(ctx context.Context, from, name string) error {
	cmd := exec.CommandContext(ctx, "docker", "-H", lab.engine.Host, "build", "-q", "-t", name, "-")
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	cmd.Stdin = strings.NewReader("FROM " + from + "\nUSER app\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return nil
}

var library = regexp.MustCompile(`(/\S+) \(0x`)

// glibcFiles are programs of this machine with the libraries that they need.
func glibcFiles(ctx context.Context, names ...string) (map[string]string, error) {
	files := map[string]string{}
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			return nil, err
		}
		files[path] = "/bin/" + name
		out, err := exec.CommandContext(ctx, "ldd", path).Output()
		if err != nil {
			return nil, fmt.Errorf("ldd %s: %w", path, err)
		}
		for _, m := range library.FindAllStringSubmatch(string(out), -1) {
			files[m[1]] = m[1]
		}
	}
	return files, nil
}

func importImage(ctx context.Context, name string, files map[string]string, applets []string, links map[string]string) error {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	var errs []error
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		errs = append(errs, w.WriteHeader(&h))
		_, err := w.Write(content)
		errs = append(errs, err)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	dirs := []string{"bin", "etc", "proc", "sys", "dev", "empty", "full", "full/sub"}
	for _, to := range files { // what is above a library: else it is root's alone
		for dir := filepath.Dir(to); dir != "/"; dir = filepath.Dir(dir) {
			dirs = append(dirs, dir[1:])
		}
	}
	slices.Sort(dirs) // a directory before what is in it
	for _, dir := range slices.Compact(dirs) {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "full/file", Mode: 0o644}, []byte("the image's own"))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"))
	for from, to := range files {
		content, err := os.ReadFile(from)
		errs = append(errs, err)
		add(tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(to, "/"), Mode: 0o755}, content)
	}
	for _, a := range applets {
		if a != "busybox" {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + a, Linkname: "busybox"}, nil)
		}
	}
	for at, to := range links {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: strings.TrimPrefix(at, "/"), Linkname: to}, nil)
	}
	errs = append(errs, w.Close())
	if err := errors.Join(errs...); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "docker", "-H", lab.engine.Host, "import", "-c", "ENV PATH=/bin", "-", name)
	cmd.Stdin = &buf
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %s: %w\n%s", name, err, out)
	}
	return nil
}

// docker runs the command line as an operator would.
func docker(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", append([]string{"-H", lab.engine.Host}, args...)...)
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

var daemons int

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
	daemons++
	name := fmt.Sprintf("live-%d-%d", os.Getpid(), daemons)
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
	run := func(args ...string) string {
		out, _ := exec.CommandContext(ctx, "docker", append([]string{"-H", lab.engine.Host}, args...)...).Output()
		return string(out)
	}
	if ids := strings.Fields(run("ps", "-aq")); len(ids) > 0 {
		run(append([]string{"rm", "-f", "-v"}, ids...)...)
	}
	if names := strings.Fields(run("volume", "ls", "-q", "-f", "driver="+d.name)); len(names) > 0 {
		run(append([]string{"volume", "rm", "-f"}, names...)...)
	}
}

// servers are the file servers of the daemon.
func (d *daemon) servers() []int {
	var pids []int
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		args := strings.Split(string(line), "\x00")
		if len(args) > 2 && args[0] == "nomad-driver-secrets-live" && args[1] == "serve" && strings.HasPrefix(args[2], d.dir+"/") {
			var pid int
			_, _ = fmt.Sscanf(p, "/proc/%d/", &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

func (d *daemon) killServer() {
	for _, pid := range d.servers() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

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

// reader is a container that reads and counts.
type reader struct {
	t    *testing.T
	d    *daemon
	name string
	out  string
}

var readers int

// startReader runs the reader in a container with a volume at /secrets.
func (d *daemon) startReader(image, volume string, dockerArgs []string, args ...string) *reader {
	d.t.Helper()
	r, run := d.reader(image, volume, dockerArgs, args)
	mustDocker(d.t, run...)
	return r
}

// reader makes a reader, and the command line that starts it.
func (d *daemon) reader(image, volume string, dockerArgs, args []string) (*reader, []string) {
	d.t.Helper()
	readers++
	r := &reader{t: d.t, d: d, name: fmt.Sprintf("reader-%d-%d", os.Getpid(), readers)}
	dir := d.path("out")
	must.NoError(d.t, os.MkdirAll(dir, 0o777))
	must.NoError(d.t, os.Chmod(dir, 0o777))
	r.out = filepath.Join(dir, r.name)
	run := []string{"run", "-d", "--network", "none", "--name", r.name, "--volume-driver", d.name, "-v", volume + ":/secrets", "-v", dir + ":/out"}
	run = append(append(run, dockerArgs...), image, "/bin/reader")
	for _, a := range args {
		if a == "OUT" {
			a = "/out/" + r.name
		}
		run = append(run, a)
	}
	return r, run
}

// startReaders starts many, some at a time, of both images in turn.
func (d *daemon) startReaders(n int, volume string, args ...string) []*reader {
	d.t.Helper()
	var all []*reader
	var g errgroup.Group
	g.SetLimit(4)
	for i := range n {
		r, run := d.reader([]string{lab.busybox, lab.glibc}[i%2], volume, nil, args)
		all = append(all, r)
		g.Go(func() error {
			_, err := docker(d.t, run...)
			return err
		})
	}
	must.NoError(d.t, g.Wait())
	for _, r := range all {
		r.until("a read", 30*time.Second, func(s stats) bool { return s.Reads > 0 })
	}
	return all
}

// stats are the reader's of now.
type stats struct {
	Reads      int
	Errors     int
	FirstError string
	LastError  string
	LastFailed int64
	Mismatches int
	Slowest    time.Duration
	Seen       map[string]int64
}

func (r *reader) stats() (s stats, err error) {
	b, err := os.ReadFile(r.out)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}

// until waits for something in the stats.
func (r *reader) until(what string, within time.Duration, cond func(stats) bool) stats {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), within)
	defer cancel()
	var last stats
	must.NoError(r.t, harness.Until(ctx, what, func() error {
		s, err := r.stats()
		if err == nil && !cond(s) {
			err = fmt.Errorf("reads %d, errors %d (%s), seen %d", s.Reads, s.Errors, s.LastError, len(s.Seen))
		}
		last = s
		return err
	}))
	return last
}
