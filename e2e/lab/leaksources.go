package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/leakscan"
	"github.com/stretchr/testify/require"
)

// Sources are all the places of docs/guarantees.md, "Leaks", as they are now.
func (h *LeakSearch) Sources(allocs ...*harness.Alloc) []leakscan.Source {
	h.T.Helper()
	agentDir := filepath.Dir(h.Agent.DataDir())
	noMounts := leakscan.TreeOptions{Mounts: leakscan.NoMounts}
	all := []leakscan.Source{
		// Data, configuration and logs of the client and of the server; the mounts are the tasks'
		// secrets/ and private/, where the values belong, and the journal.
		leakscan.Tree("Nomad's files", agentDir, noMounts),
		leakscan.Tree("Nomad's log", h.Agent.LogPath, leakscan.TreeOptions{}),
		leakscan.Processes("processes", h.handlers()...),
		leakscan.Text("Nomad's events", "event stream", h.events.bytes()),
		leakscan.Command("image", "docker", "image", "inspect", h.Images.App),
		leakscan.Command("image", "docker", "image", "history", "--no-trunc", h.Images.App),
	}
	if dir := h.Agent.JournalDir(); exists(dir) { // the built-in drivers have none
		all = append(all, leakscan.Tree("journal", dir, leakscan.TreeOptions{Skip: journalValues}))
	}
	if dir := "/var/lib/nomad-driver-secrets"; exists(dir) {
		all = append(all, leakscan.Tree("launcher", dir, noMounts))
	}
	// Mounted below Docker's data are the containers' root file systems, whose layers are in it, too,
	// and their tmpfs.
	all = append(all, leakscan.Tree("Docker's data", h.output("docker", "info", "-f", "{{.DockerRootDir}}"), noMounts))
	for _, dir := range []string{"/run/docker", "/var/lib/containerd", "/run/containerd"} {
		if exists(dir) {
			all = append(all, leakscan.Tree(dir, dir, noMounts))
		}
	}
	for _, alloc := range allocs {
		ids := strings.Fields(h.output("docker", "ps", "-aq", "--no-trunc", "--filter", "label=com.hashicorp.nomad.alloc_id="+alloc.ID))
		if len(ids) > 0 {
			all = append(all, leakscan.Command("docker inspect", "docker", append([]string{"inspect"}, ids...)...))
		}
		all = append(all, h.apiOf(alloc)...)
	}
	return append(all, h.api("/v1/nodes"), h.api("/v1/node/"+h.nodeID()), h.api("/v1/node/"+h.nodeID()+"/allocations"), h.api("/v1/jobs?meta=true"))
}

// apiOf is what Nomad's HTTP API tells of an allocation, and gives from its directory.
func (h *LeakSearch) apiOf(alloc *harness.Alloc) []leakscan.Source {
	job := "/v1/job/" + alloc.Job.ID
	all := []leakscan.Source{h.api("/v1/allocation/" + alloc.ID)}
	for _, of := range []string{"", "/versions", "/allocations", "/evaluations", "/summary"} {
		all = append(all, h.api(job+of))
	}
	return append(all, h.apiFiles(alloc, "/")...)
}

// apiFiles asks for all files of an allocation, in all ways. What it refuses is searched, too: of the
// secrets directory it must refuse the content.
func (h *LeakSearch) apiFiles(alloc *harness.Alloc, dir string) []leakscan.Source {
	of := func(verb, path, more string) string {
		return fmt.Sprintf("/v1/client/fs/%s/%s?path=%s%s", verb, alloc.ID, url.QueryEscape(path), more)
	}
	list, status := h.get(of("ls", dir, ""))
	all := []leakscan.Source{leakscan.Text("Nomad's API: files", "ls "+dir, list)}
	var entries []struct {
		Name, FileMode string
		IsDir          bool
	}
	if status != http.StatusOK || json.Unmarshal(list, &entries) != nil {
		return all
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name)
		switch {
		case e.IsDir:
			all = append(all, h.apiFiles(alloc, path)...)
		case strings.HasPrefix(e.FileMode, "p"): // a read of a FIFO waits
		default:
			for _, ask := range []string{of("stat", path, ""), of("cat", path, ""), of("readat", path, "&offset=0&limit=10000000")} {
				content, _ := h.get(ask)
				all = append(all, leakscan.Text("Nomad's API: files", ask, content))
			}
		}
	}
	return all
}

// api is an answer of Nomad's HTTP API. What is not there any more is none.
func (h *LeakSearch) api(path string) leakscan.Source {
	content, status := h.get(path)
	require.Equal(h.T, http.StatusOK, status, "%s: %s", path, content)
	return leakscan.Text("Nomad's API", path, content)
}

func (h *LeakSearch) get(path string) ([]byte, int) {
	h.T.Helper()
	req, err := http.NewRequestWithContext(h.Ctx, http.MethodGet, h.Agent.Addr+path, nil)
	require.NoError(h.T, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(h.T, err)
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	require.NoError(h.T, err)
	return content, resp.StatusCode
}

func (h *LeakSearch) nodeID() string {
	node, err := h.Agent.Node(h.Ctx)
	require.NoError(h.T, err)
	return node.ID
}

// handlers are the processes that handle tasks without being their programs: Nomad, the plugins and
// their helpers, Docker and its shims. Their environment is looked at, too.
func (h *LeakSearch) handlers() (pids []int) {
	agentDir := filepath.Dir(h.Agent.DataDir())
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		program, _ := os.Readlink(filepath.Join(dir, "exe"))
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		ours := strings.HasPrefix(program, filepath.Join(agentDir, "plugins")+"/") || bytes.Contains(args, []byte("-config="+agentDir)) ||
			bytes.HasPrefix(args, []byte("nomad-driver-secrets-live\x00")) && bytes.Contains(args, []byte(agentDir))
		switch base := filepath.Base(program); {
		case ours, base == "dockerd", strings.HasPrefix(base, "containerd"):
			pids = append(pids, pid)
		}
	}
	return pids
}

// Record keeps Nomad's events from the first on. The stream ends with the test.
func (h *LeakSearch) Record() {
	ctx, cancel := context.WithCancel(h.Ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.Agent.Addr+"/v1/event/stream?index=1&topic=*", nil)
	require.NoError(h.T, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(h.T, err)
	require.Equal(h.T, http.StatusOK, resp.StatusCode)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = bufio.NewReader(resp.Body).WriteTo(h.events)
		resp.Body.Close()
	}()
	h.T.Cleanup(func() {
		cancel()
		<-done
	})
}

func (h *LeakSearch) output(program string, args ...string) string {
	h.T.Helper()
	out, err := exec.CommandContext(h.Ctx, program, args...).CombinedOutput()
	require.NoError(h.T, err, "%s %v: %s", program, args, out)
	return strings.TrimSpace(string(out))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// recording is Nomad's stream of events, from its beginning.
type recording struct {
	mu  sync.Mutex
	all []byte
}

func (r *recording) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, b...)
	return len(b), nil
}

func (r *recording) bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]byte(nil), r.all...)
}
