// Package enginetest has tests of the driver on a real Docker engine, without Nomad. They are in a package of their
// own since the wrapped driver keeps its connections to the engine, which a test for leaks would find.
package enginetest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	imageapi "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
)

// busyboxImage is an image with a shell in it: there is no registry to pull one from.
func busyboxImage(t *testing.T) string {
	t.Helper()
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	must.NoError(t, err)
	t.Cleanup(func() { _ = engine.Close() })
	busybox, err := os.ReadFile("/bin/busybox")
	must.NoError(t, err, must.Sprint("install busybox-static"))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must.NoError(t, w.WriteHeader(&tar.Header{Name: "busybox", Mode: 0o755, Size: int64(len(busybox))}))
	_, err = w.Write(busybox)
	must.NoError(t, err)
	must.NoError(t, w.Close())
	ref := "driver-test-" + strings.ToLower(rand.Text()) + ":1"
	r, err := engine.ImageImport(t.Context(), imageapi.ImportSource{Source: &b, SourceName: "-"}, ref, imageapi.ImportOptions{})
	must.NoError(t, err)
	_, err = io.Copy(io.Discard, r)
	must.NoError(t, err)
	must.NoError(t, r.Close())
	t.Cleanup(func() {
		_, err := engine.ImageRemove(context.Background(), ref, imageapi.RemoveOptions{Force: true, PruneChildren: true})
		must.NoError(t, err)
	})
	return ref
}

// While a container is created, a neighbour in its allocation exchanges the directory that it binds for a
// symlink to the host's, over and over. The wrapped driver alone binds what the symlink leads to; ours never
// does (CVE-2026-14896).
func TestEngineBindsWhatWasChecked(t *testing.T) {
	image := busyboxImage(t)
	ours, err := driver.New(t.Context(), "docker", hclog.NewNullLogger())
	must.NoError(t, err)
	defer ours.Close()
	wrapped := docker.NewDockerDriver(t.Context(), hclog.NewNullLogger())
	config, state := []byte(nil), filepath.Join(t.TempDir(), "state")
	must.NoError(t, base.MsgPackEncode(&config, map[string]any{
		"gc": map[string]any{"image": false, "container": true},
		"secrets": map[string]any{
			"state_dir": state, "poll_interval": "1s", "lease_check_interval": "1s", "start_timeout": "1s", "request_rate": 1, "from_policies": "off",
		},
	}))
	for _, d := range []drivers.DriverPlugin{ours, wrapped} {
		must.NoError(t, d.SetConfig(&base.Config{PluginConfig: config, AgentConfig: &base.AgentConfig{Driver: &base.ClientDriverConfig{}}}))
	}

	allocDir, host := filepath.Join(t.TempDir(), "a"), t.TempDir()
	logs, local := filepath.Join(allocDir, "alloc", "logs"), filepath.Join(allocDir, "web", "local")
	data, link := filepath.Join(local, "data"), filepath.Join(local, "link")
	for _, dir := range []string{logs, data, filepath.Join(allocDir, "web", "secrets")} {
		must.NoError(t, os.MkdirAll(dir, 0o777))
	}
	must.NoError(t, os.WriteFile(filepath.Join(data, "canary"), []byte("the task's\n"), 0o644))
	must.NoError(t, os.WriteFile(filepath.Join(host, "canary"), []byte("the host's\n"), 0o644))
	must.NoError(t, os.Symlink(host, link))
	stdout, stderr := filepath.Join(logs, ".web.stdout.fifo"), filepath.Join(logs, ".web.stderr.fifo")
	for _, fifo := range []string{stdout, stderr} {
		must.NoError(t, unix.Mkfifo(fifo, 0o600))
		f, err := os.OpenFile(fifo, os.O_RDWR, 0) // as Nomad's log collector, which is always there
		must.NoError(t, err)
		defer f.Close()
	}
	reader, err := os.OpenFile(stdout, os.O_RDWR|unix.O_NONBLOCK, 0)
	must.NoError(t, err)
	defer reader.Close()

	// said starts a container that prints what it finds, and gives that; nothing is a start that was refused.
	said := func(d drivers.DriverPlugin) string {
		id := rand.Text()
		cfg := &drivers.TaskConfig{
			ID: id + "/web/1", Name: "web", AllocID: id, AllocDir: allocDir, StdoutPath: stdout, StderrPath: stderr,
			Env: map[string]string{"NOMAD_ALLOC_DIR": "/alloc", "NOMAD_TASK_DIR": "/local", "NOMAD_SECRETS_DIR": "/secrets"},
			Resources: &drivers.Resources{
				NomadResources: &structs.AllocatedTaskResources{Memory: structs.AllocatedMemoryResources{MemoryMB: 32}},
				LinuxResources: &drivers.LinuxResources{CPUShares: 20},
			},
		}
		must.NoError(t, cfg.EncodeConcreteDriverConfig(map[string]any{
			"image": image, "command": "/busybox", "args": []string{"sh", "-c", "/busybox cat /bound/canary; exec /busybox sleep 1000"}, "network_mode": "none",
			"volumes": []string{"local/data:/bound"},
		}))
		if _, _, err := d.StartTask(cfg); err != nil {
			return ""
		}
		defer func() { must.NoError(t, d.DestroyTask(cfg.ID, true)) }()
		must.NoError(t, reader.SetReadDeadline(time.Now().Add(time.Minute)))
		line := make([]byte, len("the task's\n")) // the engine passes whole lines on
		_, err := io.ReadFull(reader, line)
		must.NoError(t, err)
		return strings.TrimSpace(string(line))
	}

	swapped := swapper(t, data, link)
	seen := map[string]int{}
	for i := 0; i < 30 || seen["the task's"] == 0; i++ {
		must.Less(t, 300, i, must.Sprint("no container starts"))
		seen[said(ours)]++
	}
	must.EqOp(t, 0, seen["the host's"], must.Sprint(seen))
	alone := map[string]int{}
	for i := 0; alone["the host's"] == 0; i++ {
		must.Less(t, 300, i, must.Sprint("the wrapped driver alone is not fooled: this test shows nothing"))
		alone[said(wrapped)]++
	}
	t.Logf("ours %v, the wrapped driver alone %v, %d swaps", seen, alone, swapped())
}

// swapper exchanges two names until it is asked how often it has.
func swapper(t *testing.T, a, b string) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	swaps := make(chan int, 1)
	go func() {
		n := 0
		for ctx.Err() == nil {
			if unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE) == nil {
				n++
			}
			time.Sleep(100 * time.Microsecond) // the engine must come to run, too
		}
		swaps <- n
	}()
	return func() int {
		cancel()
		return <-swaps
	}
}
