package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
)

// Engine is a Docker engine of a test's own, to be stopped and killed. Its containers have no network:
// an engine without a bridge removes docker0, which is the machine's engine's, and so this one lives in
// a network namespace of its own. It has the image App.
type Engine struct {
	Host string // for the docker driver's endpoint

	dir    string
	remap  bool // containers' users are others on the host
	docker *client.Client
	proc   *process
}

// NewEngine starts an engine whose containers outlive it (live-restore). Close ends it.
func (c *Cluster) NewEngine(ctx context.Context, name string) (*Engine, error) {
	return c.newEngine(ctx, name, false)
}

// NewRemappedEngine starts one whose containers are in user namespaces (userns-remap): their users are others on the host.
func (c *Cluster) NewRemappedEngine(ctx context.Context, name string) (*Engine, error) {
	return c.newEngine(ctx, name, true)
}

func (c *Cluster) newEngine(ctx context.Context, name string, remap bool) (*Engine, error) {
	dir, err := c.dir.mkdir(name)
	if err != nil {
		return nil, err
	}
	e := &Engine{Host: "unix://" + filepath.Join(dir, "sock"), dir: dir, remap: remap}
	if err := e.configure(true); err != nil {
		return nil, err
	}
	if e.docker, err = client.NewClientWithOpts(client.WithHost(e.Host), client.WithAPIVersionNegotiation()); err != nil {
		return nil, err
	}
	if err := e.Start(ctx); err != nil {
		return e, err
	}
	return e, c.Images.make(ctx, e.docker, c.Images.App, []string{"ENV PATH=/bin"})
}

func (e *Engine) path(name string) string { return filepath.Join(e.dir, name) }

func (e *Engine) configure(liveRestore bool) error {
	options := map[string]any{
		"data-root": e.path("data"), "exec-root": e.path("exec"), "pidfile": e.path("pid"), "hosts": []string{e.Host},
		"storage-driver": "vfs", // whatever this machine's file system can
		"bridge":         "none", "iptables": false, "ip6tables": false,
		"live-restore": liveRestore, "shutdown-timeout": 5,
	}
	if e.remap {
		options["userns-remap"] = "default"
	}
	config, err := json.Marshal(options)
	if err != nil {
		return err
	}
	return os.WriteFile(e.path("daemon.json"), config, 0o600)
}

// Start starts the engine, again on the same data if it was stopped or killed.
func (e *Engine) Start(ctx context.Context) error {
	dockerd, err := tool("dockerd", "docker.io")
	if err != nil {
		return err
	}
	e.proc, err = startProcess("dockerd", e.path("log"), nil, "unshare", "--net", dockerd, "--config-file", e.path("daemon.json"))
	if err != nil {
		return err
	}
	return Until(ctx, "the Docker engine to answer", func() error {
		if err := e.proc.alive(); err != nil {
			return err
		}
		_, err := e.docker.Ping(ctx)
		return err
	})
}

// Stop ends the engine as an operator would.
func (e *Engine) Stop() { e.proc.stop(syscall.SIGTERM, 30*time.Second) }

// Kill ends the engine with SIGKILL. Its containerd dies of that, but a moment later.
func (e *Engine) Kill(ctx context.Context) error {
	file, err := os.ReadFile(e.path("exec/containerd/containerd.pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(string(file))
	if err != nil {
		return err
	}
	e.proc.kill()
	return Until(ctx, "the engine's containerd to end", func() error {
		if err := syscall.Kill(pid, 0); err != syscall.ESRCH { // a zombie is there, too, to the next engine
			return fmt.Errorf("process %d is there: %w", pid, err)
		}
		return nil
	})
}

// EndWithContainers turns live-restore off: the engine's end is its containers'.
func (e *Engine) EndWithContainers(ctx context.Context) error {
	if err := e.configure(false); err != nil {
		return err
	}
	if err := syscall.Kill(e.proc.pid(), syscall.SIGHUP); err != nil {
		return err
	}
	return Until(ctx, "live-restore to be off", func() error {
		info, err := e.docker.Info(ctx)
		if err == nil && info.LiveRestoreEnabled {
			err = errors.New("it is on")
		}
		return err
	})
}

// Container is what the engine says of a task's container.
func (e *Engine) Container(ctx context.Context, a *Alloc, task string) (container.InspectResponse, error) {
	return e.docker.ContainerInspect(ctx, task+"-"+a.ID)
}

// Close removes the containers, which would outlive the engine, and ends it.
func (e *Engine) Close() error {
	defer e.docker.Close()
	defer e.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if e.proc.alive() != nil {
		if err := e.Start(ctx); err != nil {
			return err
		}
	}
	list, err := e.docker.ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := e.docker.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true}); err != nil {
			return fmt.Errorf("remove container %s: %w", c.Names, err)
		}
	}
	return nil
}
