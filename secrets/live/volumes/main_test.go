package volumes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	docker "github.com/docker/go-plugins-helpers/volume"
	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/running"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(daemonEnv); dir != "" {
		fmt.Fprintln(os.Stderr, serveAsDaemon(dir, os.Getenv(daemonEnv+"_ADDRESS")))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

const rootToken = "root-token-of-the-test"

// vaultServer is a real server in dev mode, with a KV version 2 at secret/.
type vaultServer struct {
	t       *testing.T
	address string
	cmd     *exec.Cmd
}

func startVault(t *testing.T) *vaultServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	v := &vaultServer{t: t, address: "http://" + l.Addr().String()}
	must.NoError(t, l.Close())
	bin := os.Getenv("DRIVER_TEST_VAULT")
	if bin == "" {
		bin, err = filepath.Abs("../../../bin/vault")
		must.NoError(t, err)
	}
	home := t.TempDir()
	v.cmd = exec.Command(bin, "server", "-dev", "-dev-no-store-token", "-dev-listen-address="+l.Addr().String(), "-dev-root-token-id="+rootToken)
	v.cmd.Env, v.cmd.Dir = []string{"HOME=" + home}, home
	must.NoError(t, v.cmd.Start(), must.Sprint("run `make tools`"))
	t.Cleanup(func() { _ = v.cmd.Process.Kill(); _ = v.cmd.Wait() })
	eventually(t, 30*time.Second, func() error { _, err := v.try("GET", "secret/config", nil); return err })
	return v
}

// behindProxy puts a proxy in front of the server. answered is called with each answer to a read of a secret, before it goes on.
func (v *vaultServer) behindProxy(answered func()) {
	to, err := url.Parse(v.address)
	must.NoError(v.t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = &http.Transport{DisableKeepAlives: true}
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method == http.MethodGet && strings.HasPrefix(r.Request.URL.Path, "/v1/secret/data/") {
			answered()
		}
		return nil
	}
	s := httptest.NewServer(proxy)
	v.t.Cleanup(s.Close)
	v.address = s.URL
}

// counted counts the requests for secrets at a proxy.
func (v *vaultServer) counted() *atomic.Int64 {
	var n atomic.Int64
	v.behindProxy(func() { n.Add(1) })
	return &n
}

// holdable keeps one answer at a proxy: the first after hold. held is closed when it is there, and release lets it go on.
func (v *vaultServer) holdable() (hold func(), held <-chan struct{}, release func()) {
	var next atomic.Bool
	there, on := make(chan struct{}), make(chan struct{})
	v.behindProxy(func() {
		if next.CompareAndSwap(true, false) {
			close(there)
			<-on
		}
	})
	release = sync.OnceFunc(func() { close(on) })
	v.t.Cleanup(release)
	return func() { next.Store(true) }, there, release
}

// pause makes the server accept connections and answer none. All of its threads have stopped when it returns.
func (v *vaultServer) pause() {
	must.NoError(v.t, v.cmd.Process.Signal(syscall.SIGSTOP))
	var status unix.WaitStatus
	_, err := unix.Wait4(v.cmd.Process.Pid, &status, unix.WUNTRACED, nil)
	must.NoError(v.t, err)
	must.True(v.t, status.Stopped())
}

func (v *vaultServer) resume() { _ = v.cmd.Process.Signal(syscall.SIGCONT) }

func (v *vaultServer) try(method, path string, body any) (map[string]any, error) {
	b, err := json.Marshal(body)
	must.NoError(v.t, err)
	req, err := http.NewRequest(method, v.address+"/v1/"+path, strings.NewReader(string(b)))
	must.NoError(v.t, err)
	req.Header.Set("X-Vault-Token", rootToken)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	var data map[string]any
	_ = json.Unmarshal(answer, &data)
	return data, err
}

func (v *vaultServer) admin(method, path string, body any) map[string]any {
	v.t.Helper()
	data, err := v.try(method, path, body)
	must.NoError(v.t, err)
	return data
}

func (v *vaultServer) put(path string, kv ...string) {
	v.t.Helper()
	fields := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		fields[kv[i]] = kv[i+1]
	}
	v.admin("POST", "secret/data/"+path, map[string]any{"data": fields})
}

// node is where a driver's state and mounts are.
type node struct {
	t     *testing.T
	vault *vaultServer
	dir   string
}

func newNode(t *testing.T, v *vaultServer) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("live directories need root: run as root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must.NoError(t, err)
	n := &node{t, v, dir}
	must.NoError(t, live.SharedDir(n.path("shared")))
	t.Cleanup(func() {
		n.killServer(syscall.SIGKILL)
		for range 3 {
			b, err := os.ReadFile("/proc/self/mountinfo")
			must.NoError(t, err)
			for line := range strings.Lines(string(b)) {
				if at := strings.Fields(line)[4]; strings.HasPrefix(at, dir+"/") {
					_ = unix.Unmount(at, unix.MNT_DETACH)
				}
			}
		}
	})
	return n
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) killServer(sig syscall.Signal) (killed int) { return running.Signal(n.dir, sig) }

func (n *node) rootCredentials() Credentials {
	path := n.path("token")
	must.NoError(n.t, os.WriteFile(path, []byte(rootToken+"\n"), 0o600))
	return Credentials{TokenFile: path}
}

// open opens a driver; also changes its configuration.
func (n *node) open(also func(*Config)) *Driver {
	n.t.Helper()
	server, err := vault.New(vault.Config{Address: n.vault.address})
	must.NoError(n.t, err)
	n.t.Cleanup(server.Close)
	cfg := Config{
		Server: server, Credentials: n.rootCredentials(), Allow: Allow{"secret/*"}, StateDir: n.path("state"),
		Home: n.path("live"), Shared: n.path("shared"), Log: hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: testWriter{n.t}}),
	}
	if also != nil {
		also(&cfg)
	}
	d, err := Open(cfg)
	must.NoError(n.t, err)
	n.t.Cleanup(d.Close)
	return d
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

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
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// read gives a file's content.
func read(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, 1<<16)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func wantFile(path, content string) func() error {
	return func() error {
		got, err := read(path)
		if err == nil && got != content {
			err = fmt.Errorf("%q", got)
		}
		return err
	}
}

func create(d *Driver, name string, opts ...string) error {
	m := map[string]string{}
	for _, o := range opts {
		k, v, _ := strings.Cut(o, "=")
		m[k] = v
	}
	return d.Create(&docker.CreateRequest{Name: name, Options: m})
}

func mount(t *testing.T, d *Driver, name, id string) string {
	t.Helper()
	r, err := d.Mount(&docker.MountRequest{Name: name, ID: id})
	must.NoError(t, err)
	return r.Mountpoint
}

func unmount(d *Driver, name, id string) error {
	return d.Unmount(&docker.UnmountRequest{Name: name, ID: id})
}

// container is a process that has a volume, or a folder in it, mounted as Docker does it: at is where the host sees that. end ends it.
func container(t *testing.T, target, folder string) (at string, end func()) {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "slave", "sh", "-c",
		"mount --bind "+filepath.Join(target, folder)+" /mnt && umount "+target+" && echo up && exec sleep 1000")
	out, err := cmd.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, cmd.Start())
	end = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(end)
	_, err = io.ReadFull(out, make([]byte, 3))
	must.NoError(t, err)
	return fmt.Sprintf("/proc/%d/root/mnt", cmd.Process.Pid), end
}

// nothingServed waits until there is neither a file server nor anything mounted.
func (n *node) nothingServed() {
	n.t.Helper()
	eventually(n.t, 15*time.Second, func() error {
		if n.killServer(0) > 0 {
			return errors.New("a file server runs")
		}
		b, err := os.ReadFile("/proc/self/mountinfo")
		for line := range strings.Lines(string(b)) {
			if at := strings.Fields(line)[4]; strings.HasPrefix(at, n.dir+"/") && at != n.path("shared") {
				return fmt.Errorf("mounted: %s", at)
			}
		}
		return err
	})
}
