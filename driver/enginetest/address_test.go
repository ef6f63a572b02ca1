package enginetest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
)

// oneSecret is a secrets server with one KV secret, whose content is a number.
type oneSecret struct {
	*httptest.Server
	content atomic.Int64
}

func newOneSecret(t *testing.T) *oneSecret {
	s := &oneSecret{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var data map[string]any
		switch path := strings.TrimPrefix(r.URL.Path, "/v1/"); {
		case strings.HasPrefix(path, "sys/internal/ui/mounts/"):
			data = map[string]any{"type": "kv", "path": "secret/", "options": map[string]any{"version": "1"}}
		case path == "secret/app":
			data = map[string]any{"content": fmt.Sprint(s.content.Load())}
		default:
			w.WriteHeader(http.StatusNotFound)
			data = map[string]any{}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
	}))
	t.Cleanup(s.Close)
	return s
}

// networkOf makes a Docker network.
func networkOf(t *testing.T, engine *client.Client, subnet string) string {
	t.Helper()
	name := "driver-test-" + strings.ToLower(rand.Text())
	options := network.CreateOptions{}
	if subnet != "" {
		options.IPAM = &network.IPAM{Config: []network.IPAMConfig{{Subnet: subnet}}}
	}
	_, err := engine.NetworkCreate(t.Context(), name, options)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, engine.NetworkRemove(context.Background(), name)) })
	return name
}

// addressTask is a task whose secret is in its environment, on a network of Docker's.
type addressTask struct {
	driver.Plugin
	t       *testing.T
	secret  *oneSecret
	cfg     *drivers.TaskConfig
	network *drivers.DriverNetwork
	events  <-chan *drivers.TaskEvent
	engine  *client.Client
}

// startOn starts a task with a secret on a network.
func startOn(t *testing.T, engine *client.Client, image, network string) *addressTask {
	t.Helper()
	a := pluginOn(t, engine, "")
	var err error
	a.cfg = a.taskConfig(image, network, map[string]any{
		"splay": "0s", "stagger": "0s",
		"secret": map[string]any{"app": map[string]any{"path": "secret/app", "env": []map[string]string{{"CONTENT": "content"}}}},
	})
	_, a.network, err = a.StartTask(a.cfg)
	must.NoError(t, err)
	return a
}

// pluginOn is a plugin for tasks with secrets; the endpoint is its engine's, empty for the usual. more is of its
// configuration.
func pluginOn(t *testing.T, engine *client.Client, endpoint string, more ...map[string]any) *addressTask {
	t.Helper()
	a := &addressTask{t: t, secret: newOneSecret(t), engine: engine}
	top, err := filepath.EvalSymlinks(t.TempDir())
	must.NoError(t, err)
	state, token := filepath.Join(top, "state"), filepath.Join(top, "token")
	must.NoError(t, os.WriteFile(token, []byte("root"), 0o600))
	t.Cleanup(func() {
		for _, below := range []string{"shared", "journal"} {
			must.NoError(t, live.Clear(filepath.Join(state, below)))
		}
	})
	a.Plugin, err = driver.New(context.Background(), "docker", hclog.NewNullLogger())
	must.NoError(t, err)
	t.Cleanup(a.Close)
	options := map[string]any{
		"endpoint": endpoint,
		"gc":       map[string]any{"image": false, "container": true},
		"secrets": map[string]any{
			"address": a.secret.URL, "token_file": token, "token_file_paths": []string{"secret/*"}, "state_dir": state,
			"poll_interval": "1s", "lease_check_interval": "10s", "start_timeout": "1m", "request_rate": 20, "from_policies": "off",
		},
	}
	for _, m := range more {
		maps.Copy(options, m)
	}
	var config []byte
	must.NoError(t, base.MsgPackEncode(&config, options))
	configure(t, a, config)
	a.events, err = a.TaskEvents(t.Context())
	must.NoError(t, err)
	return a
}

// taskConfig is a new task's, with its directories; it is destroyed with the test.
func (a *addressTask) taskConfig(image, network string, options map[string]any) *drivers.TaskConfig {
	t := a.t
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	must.NoError(t, err)
	id := strings.ToLower(rand.Text())
	cfg := &drivers.TaskConfig{
		ID: id + "/web/1", Name: "web", AllocID: id, AllocDir: filepath.Join(top, "a"),
		Env: map[string]string{"NOMAD_ALLOC_DIR": "/alloc", "NOMAD_TASK_DIR": "/local", "NOMAD_SECRETS_DIR": "/secrets"},
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{Memory: structs.AllocatedMemoryResources{MemoryMB: 32}},
			LinuxResources: &drivers.LinuxResources{CPUShares: 20},
		},
	}
	dir := cfg.TaskDir()
	logs := filepath.Join(cfg.AllocDir, "alloc", "logs")
	for _, d := range []string{logs, dir.LocalDir, dir.SecretsDir, filepath.Join(dir.Dir, "private")} {
		must.NoError(t, os.MkdirAll(d, 0o777))
	}
	t.Cleanup(func() { _ = unix.Unmount(dir.SecretsDir, unix.MNT_DETACH) })
	for name, path := range map[string]*string{"stdout": &cfg.StdoutPath, "stderr": &cfg.StderrPath} {
		*path = filepath.Join(logs, ".web."+name+".fifo")
		must.NoError(t, unix.Mkfifo(*path, 0o600))
		f, err := os.OpenFile(*path, os.O_RDWR, 0)
		must.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
	}
	all := map[string]any{"image": image, "command": "/busybox", "args": []string{"sleep", "1000"}, "network_mode": network, "stop_timeout": "1s"}
	maps.Copy(all, options)
	must.NoError(t, cfg.EncodeConcreteDriverConfig(all))
	t.Cleanup(func() { _ = a.DestroyTask(cfg.ID, true) })
	return cfg
}

// change changes the secret, and waits until the task was restarted with it, or has ended.
func (a *addressTask) change(ended <-chan *drivers.ExitResult) *drivers.ExitResult {
	a.t.Helper()
	a.secret.content.Add(1)
	for {
		select {
		case e := <-a.events:
			if strings.Contains(e.Message, "restarted in place") {
				return nil
			}
		case exit := <-ended:
			return exit
		case <-time.After(time.Minute):
			a.t.Fatal("the task is neither restarted nor ended")
		}
	}
}

// addressNow is the container's.
func (a *addressTask) addressNow(network string) string {
	a.t.Helper()
	found, err := a.engine.ContainerInspect(a.t.Context(), "web-"+a.cfg.AllocID)
	must.NoError(a.t, err)
	return found.NetworkSettings.Networks[network].IPAddress
}

// said is whether the events so far say something.
func (a *addressTask) said(what string) bool {
	for {
		select {
		case e := <-a.events:
			if strings.Contains(e.Message, what) {
				return true
			}
		case <-time.After(time.Second):
			return false
		}
	}
}

// C8, C12: on a network with a subnet of its own the container of a restart in place has the address of the one before, also where a
// lower one has become free; and Nomad hears of nothing. Where the address is taken, the new program does not run, and it is left to Nomad.
func TestEngineKeepsTheAddress(t *testing.T) {
	image := busyboxImage(t)
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	must.NoError(t, err)
	t.Cleanup(func() { _ = engine.Close() })
	sleeper := func(network string) string {
		made, err := engine.ContainerCreate(t.Context(), &container.Config{Image: image, Cmd: []string{"/busybox", "sleep", "1000"}},
			&container.HostConfig{NetworkMode: container.NetworkMode(network)}, nil, nil, "")
		must.NoError(t, err)
		t.Cleanup(func() {
			_ = engine.ContainerRemove(context.Background(), made.ID, container.RemoveOptions{Force: true})
		})
		return made.ID
	}
	net := networkOf(t, engine, "10.213.77.0/24")
	first := sleeper(net)
	must.NoError(t, engine.ContainerStart(t.Context(), first, container.StartOptions{}))
	a := startOn(t, engine, image, net)
	must.True(t, a.network.Advertise())
	must.Eq(t, a.network.IP, a.addressNow(net))
	must.False(t, a.said("cannot ask for its address"))
	ended, err := a.WaitTask(t.Context(), a.cfg.ID)
	must.NoError(t, err)
	must.NoError(t, engine.ContainerRemove(t.Context(), first, container.RemoveOptions{Force: true}))
	for range 2 {
		must.Nil(t, a.change(ended))
		must.Eq(t, a.network.IP, a.addressNow(net), must.Sprint("the address"))
	}

	// Another container takes the address as soon as it is free.
	made, err := engine.ContainerCreate(t.Context(), &container.Config{Image: image, Cmd: []string{"/busybox", "sleep", "1000"}},
		&container.HostConfig{NetworkMode: container.NetworkMode(net)},
		&network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{
			net: {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: a.network.IP}},
		}}, nil, "")
	must.NoError(t, err)
	t.Cleanup(func() {
		_ = engine.ContainerRemove(context.Background(), made.ID, container.RemoveOptions{Force: true})
	})
	ctx, stop := context.WithCancel(t.Context())
	taken := make(chan struct{})
	go func() {
		defer close(taken)
		for ctx.Err() == nil && engine.ContainerStart(ctx, made.ID, container.StartOptions{}) != nil {
			time.Sleep(time.Millisecond)
		}
	}()
	defer func() { stop(); <-taken }()
	var exit *drivers.ExitResult
	for range 20 { // it may come too late
		if exit = a.change(ended); exit != nil {
			break
		}
	}
	must.NotNil(t, exit)
	must.Eq(t, 1, exit.ExitCode)
	must.ErrorContains(t, exit.Err, "left to Nomad to restart, since its address changed")
	must.NoError(t, a.DestroyTask(a.cfg.ID, true))
}

// On a network whose subnet the engine has chosen no container may ask for an address: the start says so. The address that a container gets
// all the same may be the same again, and then nothing is left to Nomad.
func TestEngineGivesNoAddress(t *testing.T) {
	image := busyboxImage(t)
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	must.NoError(t, err)
	t.Cleanup(func() { _ = engine.Close() })
	net := networkOf(t, engine, "")
	a := startOn(t, engine, image, net)
	must.True(t, a.said(fmt.Sprintf("on Docker network %q a container cannot ask for its address", net)))
	ended, err := a.WaitTask(t.Context(), a.cfg.ID)
	must.NoError(t, err)
	if exit := a.change(ended); exit == nil {
		must.Eq(t, a.network.IP, a.addressNow(net))
	} else {
		must.ErrorContains(t, exit.Err, "since its address changed")
	}
}
