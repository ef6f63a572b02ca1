// Package livetest has a test of live directories with the real raw_exec driver and a real Vault, without Nomad. It is in a package of
// its own since the wrapped driver runs its executor by this very program.
package livetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/client/allocdir"
	"github.com/hashicorp/nomad/client/lib/cgroupslib"
	"github.com/hashicorp/nomad/client/lib/numalib"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/running"
)

func TestMain(m *testing.M) {
	if driver.ServeHelper(os.Args) {
		return
	}
	os.Exit(m.Run())
}

// vault is a server in dev mode.
type vault struct {
	t       *testing.T
	address string
	pid     int
}

func startVault(t *testing.T) *vault {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	v := &vault{t: t, address: "http://" + l.Addr().String()}
	must.NoError(t, l.Close())
	bin, err := filepath.Abs("../../bin/vault")
	must.NoError(t, err)
	cmd := exec.Command(bin, "server", "-dev", "-dev-no-store-token", "-dev-listen-address="+l.Addr().String(), "-dev-root-token-id=root")
	cmd.Env, cmd.Dir = []string{"HOME=" + t.TempDir()}, t.TempDir()
	must.NoError(t, cmd.Start(), must.Sprint("run `make tools`"))
	v.pid = cmd.Process.Pid
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	until(t, "Vault", func() error { return v.put("up", "x") })
	return v
}

func (v *vault) put(path, password string) error {
	body, err := json.Marshal(map[string]any{"data": map[string]any{"user": password, "password": password}})
	must.NoError(v.t, err)
	req, err := http.NewRequest("POST", v.address+"/v1/secret/data/"+path, bytes.NewReader(body))
	must.NoError(v.t, err)
	req.Header.Set("X-Vault-Token", "root")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		answer, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return nil
}

func until(t *testing.T, what string, cond func() error) time.Duration {
	t.Helper()
	begin := time.Now()
	for {
		err := cond()
		if err == nil {
			return time.Since(begin)
		}
		must.Less(t, 20*time.Second, time.Since(begin), must.Sprintf("%s: %v", what, err))
		time.Sleep(10 * time.Millisecond)
	}
}

// plugin is one process of a plugin, as far as it can be without one.
func plugin(t *testing.T, config map[string]any) driver.Plugin {
	t.Helper()
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: logTo{t}})
	d, err := driver.New(context.Background(), "raw_exec", log)
	must.NoError(t, err)
	var raw []byte
	must.NoError(t, base.MsgPackEncode(&raw, config))
	topology := numalib.Scan(numalib.PlatformScanners(false))
	must.NoError(t, cgroupslib.Init(log, topology.UsableCores().String())) // as an agent does at its start, with the same
	must.NoError(t, d.SetConfig(&base.Config{PluginConfig: raw, AgentConfig: &base.AgentConfig{Driver: &base.ClientDriverConfig{Topology: topology}}}))
	t.Cleanup(d.Close)
	return d
}

type logTo struct{ t *testing.T }

func (l logTo) Write(line []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Log(strings.TrimSpace(string(line)))
	}
	return len(line), nil
}

// taskConfig is a task's, in directories as Nomad makes them.
func taskConfig(t *testing.T, top string, options map[string]any) *drivers.TaskConfig {
	t.Helper()
	cfg := &drivers.TaskConfig{
		ID: "0d9f6f4e-0000-4000-8000-000000000001/web/1", Name: "web", AllocID: "0d9f6f4e-0000-4000-8000-000000000001",
		JobID: "job", Namespace: "default", AllocDir: filepath.Join(top, "alloc"),
		Env: map[string]string{"NOMAD_ALLOC_INDEX": "0", "PATH": os.Getenv("PATH")},
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{},
			LinuxResources: &drivers.LinuxResources{},
		},
	}
	for _, dir := range []string{cfg.TaskDir().LocalDir, cfg.TaskDir().SecretsDir, filepath.Join(cfg.TaskDir().Dir, allocdir.TaskPrivate), filepath.Join(cfg.AllocDir, "alloc", "logs")} {
		must.NoError(t, os.MkdirAll(dir, 0o777))
	}
	t.Cleanup(func() { _ = unix.Unmount(cfg.TaskDir().SecretsDir, unix.MNT_DETACH) })
	for name, path := range map[string]*string{"stdout": &cfg.StdoutPath, "stderr": &cfg.StderrPath} {
		*path = filepath.Join(cfg.AllocDir, "alloc", "logs", ".web."+name+".fifo")
		must.NoError(t, unix.Mkfifo(*path, 0o600))
		f, err := os.OpenFile(*path, os.O_RDWR, 0)
		must.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
	}
	must.NoError(t, cfg.EncodeConcreteDriverConfig(options))
	return cfg
}

// With the server away the last value is served for live_stale, then none; when it is back, what is current. Nothing waits for it.
func TestLiveDirOfAProcessWhileVaultIsAway(t *testing.T) {
	v := startVault(t)
	must.NoError(t, v.put("app", "one"))
	top, config := stateOf(t, v)
	cfg := taskConfig(t, top, map[string]any{
		"command": "/bin/sleep", "args": []string{"1000"},
		"secret": map[string]any{"app": map[string]any{"path": "secret/app", "live_dir": "app", "live_stale": "5s"}},
	})
	d := plugin(t, config)
	_, _, err := d.StartTask(cfg)
	must.NoError(t, err)
	file := filepath.Join(cfg.TaskDir().SecretsDir, "app", "user")
	slowest := time.Duration(0)
	read := func() (string, error) {
		begin := time.Now()
		got, err := os.ReadFile(file)
		slowest = max(slowest, time.Since(begin))
		return string(got), err
	}
	for range 100 {
		got, err := read()
		must.NoError(t, err)
		must.Eq(t, "one", got)
		time.Sleep(20 * time.Millisecond)
	}
	must.NoError(t, syscall.Kill(v.pid, syscall.SIGSTOP)) // it takes connections and answers none
	served := until(t, "an error", func() error {
		if _, err := read(); !errors.Is(err, syscall.EIO) {
			return fmt.Errorf("it is %w", err)
		}
		return nil
	})
	must.Between(t, 3500*time.Millisecond, served, 7*time.Second)
	must.NoError(t, syscall.Kill(v.pid, syscall.SIGCONT))
	must.NoError(t, v.put("app", "two"))
	until(t, "what is current", func() error {
		got, err := read()
		if err == nil && got != "two" {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
	must.Less(t, 400*time.Millisecond, slowest)
	must.NoError(t, d.StopTask(cfg.ID, time.Second, "SIGTERM"))
	must.NoError(t, d.DestroyTask(cfg.ID, true))
}

// stateOf is a directory for a plugin's state, and its configuration.
func stateOf(t *testing.T, v *vault) (top string, config map[string]any) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("it needs root: run as root")
	}
	top, err := filepath.EvalSymlinks(t.TempDir())
	must.NoError(t, err)
	must.NoError(t, os.Chmod(filepath.Dir(top), 0o755))
	t.Chdir(top) // where the wrapped driver's executor, without an agent's cgroup, writes cgroup.procs
	state := filepath.Join(top, "state")
	t.Cleanup(func() {
		running.Signal(state, syscall.SIGKILL)
		for _, below := range []string{"live/v1", "shared", "journal"} {
			must.NoError(t, live.Clear(filepath.Join(state, below)))
		}
		pins, _ := filepath.Glob(state + "-binds/*/*")
		for _, pin := range pins {
			must.NoError(t, live.Clear(pin))
		}
	})
	token := filepath.Join(top, "token")
	must.NoError(t, os.WriteFile(token, []byte("root"), 0o600))
	return top, map[string]any{"enabled": true, "secrets": map[string]any{
		"address": v.address, "token_file": token, "token_file_paths": []string{"secret/*"}, "state_dir": state,
		"poll_interval": "2s", "lease_check_interval": "10s", "request_rate": 20, "start_timeout": "20s", "from_policies": "off",
	}}
}

// A raw_exec task's live directory: what the task reads, a change, another plugin process, another file server, a restart in place, the end.
func TestLiveDirOfAProcess(t *testing.T) {
	v := startVault(t)
	must.NoError(t, v.put("app", "one"))
	top, config := stateOf(t, v)
	state := filepath.Join(top, "state")
	cfg := taskConfig(t, top, map[string]any{
		"command": "/bin/sleep", "args": []string{"1000"},
		"secret": map[string]any{
			"app":  map[string]any{"path": "secret/app", "live_dir": "live/app"},
			"both": map[string]any{"path": "secret/both", "live_dir": "live/both", "files": true, "splay": "0s", "stagger": "0s"},
		},
	})
	must.NoError(t, v.put("both", "one"))

	d := plugin(t, config)
	handle, _, err := d.StartTask(cfg)
	must.NoError(t, err)
	app := filepath.Join(cfg.TaskDir().SecretsDir, "live", "app")
	read := func(name, want string) func() error {
		return func() error {
			got, err := os.ReadFile(name)
			if err == nil && string(got) != want {
				err = fmt.Errorf("it is %q", got)
			}
			return err
		}
	}
	must.NoError(t, read(app+"/user", "one")())
	for _, value := range []string{"two", "three"} {
		must.NoError(t, v.put("app", value))
		took := until(t, value, read(app+"/password", value))
		must.Less(t, 1500*time.Millisecond, took)
		t.Logf("seen after %s", took)
	}
	pid := func() string {
		status, err := d.InspectTask(cfg.ID)
		must.NoError(t, err)
		return status.DriverAttributes["pid"]
	}
	first := pid()

	// A file of the same secret changes as ever, and the directory at once.
	must.NoError(t, v.put("both", "two"))
	until(t, "the directory", read(filepath.Join(cfg.TaskDir().SecretsDir, "live", "both", "user"), "two"))
	until(t, "the file", read(filepath.Join(cfg.TaskDir().SecretsDir, "both", "user"), "two"))
	until(t, "another process", func() error {
		if pid() == first {
			return errors.New("it is the same")
		}
		return nil
	})
	must.NoError(t, read(app+"/user", "three")())

	// Another process of the plugin.
	d.Close()
	must.NoError(t, read(app+"/user", "three")())
	d = plugin(t, config)
	must.NoError(t, d.RecoverTask(handle))
	must.NoError(t, read(app+"/user", "three")())
	must.NoError(t, v.put("app", "four"))
	must.Less(t, 1500*time.Millisecond, until(t, "four", read(app+"/user", "four")))

	for _, p := range running.Servers(state) {
		must.NoError(t, syscall.Kill(p, syscall.SIGKILL))
	}
	must.Less(t, 2*time.Second, until(t, "to heal", read(app+"/user", "four")))

	must.NoError(t, d.StopTask(cfg.ID, time.Second, "SIGTERM"))
	must.NoError(t, d.DestroyTask(cfg.ID, true))
	until(t, "nothing to be left", func() error {
		left, err := filepath.Glob(filepath.Join(state, "shared", "live", "*"))
		if err == nil && len(left)+len(running.Servers(state)) > 0 {
			err = fmt.Errorf("there are %v, %v", left, running.Servers(state))
		}
		return err
	})
}
