// Package enginetest has tests of the driver on a real Docker engine, without Nomad. They are in a package of their
// own since the wrapped driver keeps its connections to the engine, which a test for leaks would find.
package enginetest

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
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
	"github.com/shoenig/test/wait"
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

// configure gives a driver its configuration, and waits until the wrapped driver has looked for pause containers, which it
// does beside: its client reads the API version there without the lock under which the first request sets it. As the built-in
// driver has this race, too, it must not fail a test of ours.
func configure(t *testing.T, d drivers.DriverPlugin, config []byte) {
	t.Helper()
	must.NoError(t, d.SetConfig(&base.Config{PluginConfig: config, AgentConfig: &base.AgentConfig{Driver: &base.ClientDriverConfig{}}}))
	must.Wait(t, wait.InitialSuccess(wait.BoolFunc(func() bool {
		stacks := make([]byte, 1<<20)
		return !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("recoverPauseContainers"))
	}), wait.Timeout(time.Minute), wait.Gap(5*time.Millisecond)))
}

// bindWorld has an allocation's directories, and a driver without volumes of the host: ours, and the wrapped one alone.
type bindWorld struct {
	t              *testing.T
	ours, wrapped  drivers.DriverPlugin
	image          string
	allocDir       string
	stdout, stderr string
	reader         *os.File
}

func newBindWorld(t *testing.T) *bindWorld {
	t.Helper()
	w := &bindWorld{t: t, image: busyboxImage(t), allocDir: filepath.Join(t.TempDir(), "a")}
	ours, err := driver.New(t.Context(), "docker", hclog.NewNullLogger())
	must.NoError(t, err)
	t.Cleanup(ours.Close)
	w.ours, w.wrapped = ours, docker.NewDockerDriver(t.Context(), hclog.NewNullLogger())
	config, state := []byte(nil), filepath.Join(t.TempDir(), "state")
	must.NoError(t, base.MsgPackEncode(&config, map[string]any{
		"gc": map[string]any{"image": false, "container": true},
		"secrets": map[string]any{
			"state_dir": state, "poll_interval": "1s", "lease_check_interval": "1s", "start_timeout": "1s", "request_rate": 1, "from_policies": "off",
		},
	}))
	for _, d := range []drivers.DriverPlugin{w.ours, w.wrapped} {
		configure(t, d, config)
	}
	logs := filepath.Join(w.allocDir, "alloc", "logs")
	for _, dir := range []string{logs, filepath.Join(w.allocDir, "web", "local"), filepath.Join(w.allocDir, "web", "secrets"), filepath.Join(w.allocDir, "other", "local")} {
		must.NoError(t, os.MkdirAll(dir, 0o777))
	}
	w.stdout, w.stderr = filepath.Join(logs, ".web.stdout.fifo"), filepath.Join(logs, ".web.stderr.fifo")
	for _, fifo := range []string{w.stdout, w.stderr} {
		must.NoError(t, unix.Mkfifo(fifo, 0o600))
		f, err := os.OpenFile(fifo, os.O_RDWR, 0) // as Nomad's log collector, which is always there
		must.NoError(t, err)
		t.Cleanup(func() { _ = f.Close() })
	}
	w.reader, err = os.OpenFile(w.stdout, os.O_RDWR|unix.O_NONBLOCK, 0)
	must.NoError(t, err)
	t.Cleanup(func() { _ = w.reader.Close() })
	return w
}

// said starts a container that runs a script, and gives the line that it prints; nothing is a start that was refused.
func (w *bindWorld) said(d drivers.DriverPlugin, script string, binds map[string]any) string {
	t := w.t
	t.Helper()
	id := rand.Text()
	cfg := &drivers.TaskConfig{
		ID: id + "/web/1", Name: "web", AllocID: id, AllocDir: w.allocDir, StdoutPath: w.stdout, StderrPath: w.stderr,
		Env: map[string]string{"NOMAD_ALLOC_DIR": "/alloc", "NOMAD_TASK_DIR": "/local", "NOMAD_SECRETS_DIR": "/secrets"},
		Resources: &drivers.Resources{
			NomadResources: &structs.AllocatedTaskResources{Memory: structs.AllocatedMemoryResources{MemoryMB: 32}},
			LinuxResources: &drivers.LinuxResources{CPUShares: 20},
		},
	}
	options := map[string]any{
		"image": w.image, "command": "/busybox", "args": []string{"sh", "-c", script + "; exec /busybox sleep 1000"}, "network_mode": "none",
	}
	maps.Copy(options, binds)
	must.NoError(t, cfg.EncodeConcreteDriverConfig(options))
	if _, _, err := d.StartTask(cfg); err != nil {
		return ""
	}
	defer func() { must.NoError(t, d.DestroyTask(cfg.ID, true)) }()
	must.NoError(t, w.reader.SetReadDeadline(time.Now().Add(time.Minute)))
	line, err := bufio.NewReader(w.reader).ReadString('\n') // the engine passes whole lines on
	must.NoError(t, err)
	return strings.TrimSpace(line)
}

// While a container is created, a neighbour in its allocation exchanges the directory that it binds for a
// symlink to the host's, over and over. The wrapped driver alone binds what the symlink leads to; ours never
// does (CVE-2026-14891).
func TestEngineBindsWhatWasChecked(t *testing.T) {
	w, host := newBindWorld(t), t.TempDir()
	local := filepath.Join(w.allocDir, "web", "local")
	data, link := filepath.Join(local, "data"), filepath.Join(local, "link")
	must.NoError(t, os.Mkdir(data, 0o777))
	must.NoError(t, os.WriteFile(filepath.Join(data, "canary"), []byte("the task's\n"), 0o644))
	must.NoError(t, os.WriteFile(filepath.Join(host, "canary"), []byte("the host's\n"), 0o644))
	must.NoError(t, os.Symlink(host, link))
	said := func(d drivers.DriverPlugin) string {
		return w.said(d, "/busybox cat /bound/canary", map[string]any{"volumes": []string{"local/data:/bound"}})
	}

	swapped := swapper(t, data, link)
	seen := map[string]int{}
	for i := 0; i < 30 || seen["the task's"] == 0; i++ {
		must.Less(t, 300, i, must.Sprint("no container starts"))
		seen[said(w.ours)]++
	}
	must.EqOp(t, 0, seen["the host's"], must.Sprint(seen))
	alone := map[string]int{}
	for i := 0; alone["the host's"] == 0; i++ {
		must.Less(t, 300, i, must.Sprint("the wrapped driver alone is not fooled: this test shows nothing"))
		alone[said(w.wrapped)]++
	}
	t.Logf("ours %v, the wrapped driver alone %v, %d swaps", seen, alone, swapped())
}

// A container's root, whom no sticky bit holds back, has the allocation's directory or a neighbour's bound, and puts a symlink
// in the place of a name that root opens there: with the wrapped driver alone it does, with ours it cannot.
func TestEngineBindsRootsNamesReadOnly(t *testing.T) {
	w := newBindWorld(t)
	neighbour := filepath.Join(w.allocDir, "other", "local")
	bind := func(source string) []any {
		return []any{map[string]any{"type": "bind", "source": source, "target": "/b"}}
	}
	for _, attack := range []struct {
		local string // the neighbour's, in the container
		binds map[string]any
	}{
		{"/b/other/local", map[string]any{"volumes": []string{"..:/b"}}},
		{"/b/local", map[string]any{"volumes": []string{"../other:/b"}}},
		{"/b/other/local", map[string]any{"mount": bind("..")}},
		{"/b/local", map[string]any{"mounts": bind("../other")}},
	} {
		script := fmt.Sprintf("/busybox mv %[1]s %[1]s.x && /busybox ln -s / %[1]s && echo replaced || echo denied", attack.local)
		must.EqOp(t, "denied", w.said(w.ours, script, attack.binds))
		info, err := os.Lstat(neighbour)
		must.NoError(t, err)
		must.True(t, info.IsDir())

		must.EqOp(t, "replaced", w.said(w.wrapped, script, attack.binds), must.Sprint("this test shows nothing"))
		must.NoError(t, os.Remove(neighbour))
		must.NoError(t, os.Rename(neighbour+".x", neighbour))
	}

	// The task's own may be written to, and what is put there in the place of a name is seen at the next start.
	own := map[string]any{"volumes": []string{".:/b"}}
	must.EqOp(t, "replaced", w.said(w.ours, "/busybox mv /b/local /b/x && /busybox ln -s / /b/local && echo replaced || echo denied", own))
	must.EqOp(t, "", w.said(w.ours, "echo started", own), must.Sprint("its directory is a symlink to the host's root"))
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
