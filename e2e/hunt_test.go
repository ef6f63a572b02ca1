package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/leakscan"
	"github.com/stretchr/testify/require"
)

// hunt is a lab that knows the values it has made, and where to look for them.
type hunt struct {
	*lab
	canaries []leakscan.Canary
	known    map[string]bool
	events   *recording
}

// learn makes a value one that is looked for from now on.
func (h *hunt) learn(name, value string) {
	if !h.known[value] {
		h.known[value] = true
		h.canaries = append(h.canaries, leakscan.Canary{Name: name, Value: value})
	}
}

// put writes secret/<path>, whose one field `value` is a canary that looks different in every form.
func (h *hunt) put(path, name string) string {
	h.t.Helper()
	value := rand.Text() + ` "/+<é> = ` + rand.Text()[:4]
	h.learn(name, value)
	require.NoError(h.t, h.Vault.PutKV2(h.ctx, "secret", path, map[string]any{"value": value}))
	return value
}

// mayRead makes the Vault role of the agent's tasks, with a policy of the same name.
func (h *hunt) mayRead(role string, paths ...string) {
	h.t.Helper()
	policy := `path "sys/leases/revoke" { capabilities = ["update"] }`
	for _, path := range paths {
		policy += fmt.Sprintf("\npath %q { capabilities = [\"read\"] }", path)
	}
	require.NoError(h.t, h.Vault.Policy(h.ctx, role, policy))
	require.NoError(h.t, h.Vault.WorkloadRole(h.ctx, h.agent.AuthPath, role, harness.WorkloadRole{Policies: []string{role}}))
}

// journalValues are the journal's files that have values in them, by contract (DESIGN 6).
var journalValues = []string{"tokens.json", "values.json"}

// learnJournal makes canaries of what only the driver knows, and may rest in those two files alone:
// its tokens, and the leased secrets.
func (h *hunt) learnJournal() {
	h.t.Helper()
	learnt := map[string]int{}
	for _, file := range journalValues {
		paths, err := filepath.Glob(filepath.Join(h.agent.StateDir, "*", "*", "*", file))
		require.NoError(h.t, err)
		for _, path := range paths {
			content, err := os.ReadFile(path)
			require.NoError(h.t, err)
			var doc struct {
				Tokens map[string]struct{ Value []byte }
				Values map[string][]byte
			}
			require.NoError(h.t, json.Unmarshal(content, &doc))
			task := filepath.Base(filepath.Dir(path))
			for _, token := range doc.Tokens {
				h.learn(task+"'s token", string(token.Value))
				learnt["token"]++
			}
			for name, fields := range doc.Values {
				var values map[string]string
				require.NoError(h.t, json.Unmarshal(fields, &values))
				for field, value := range values {
					h.learn(fmt.Sprintf("%s's %s %s", task, name, field), value)
					learnt[field]++
				}
			}
		}
	}
	for _, what := range []string{"token", "username", "password"} {
		require.NotZero(h.t, learnt[what], "no %s is in the journal", what)
	}
}

// scan searches for all canaries.
func (h *hunt) scan(sources ...leakscan.Source) leakscan.Report {
	h.t.Helper()
	scanner, err := leakscan.New(h.canaries...)
	require.NoError(h.t, err)
	report, err := scanner.Scan(h.ctx, sources...)
	require.NoError(h.t, err, "not all could be looked at")
	return report
}

// clean fails the test if a value is anywhere.
func (h *hunt) clean(when string, allocs ...*harness.Alloc) {
	h.t.Helper()
	report := h.scan(h.sources(allocs...)...)
	h.t.Logf("%s: looked for %d values in %v", when, len(h.canaries), report.Places)
	require.NoError(h.t, noHits(report), when)
}

func noHits(report leakscan.Report) error {
	if len(report.Hits) > 0 {
		return fmt.Errorf("values were found:\n%s", lines(report.Hits))
	}
	return nil
}

func lines(hits []leakscan.Hit) string {
	var all strings.Builder
	for _, hit := range hits {
		fmt.Fprintln(&all, " ", hit)
	}
	return all.String()
}

func found(report leakscan.Report, canary, place string) bool {
	for _, hit := range report.Hits {
		if hit.Canary == canary && (strings.Contains(hit.Place, place) || hit.Source == place) {
			return true
		}
	}
	return false
}

// sources are all the places of DESIGN 6, "No leaks", as they are now.
func (h *hunt) sources(allocs ...*harness.Alloc) []leakscan.Source {
	h.t.Helper()
	agentDir := filepath.Dir(h.agent.DataDir())
	noMounts := leakscan.TreeOptions{Mounts: leakscan.NoMounts}
	all := []leakscan.Source{
		// Data, configuration and logs of the client and of the server; the mounts are the tasks'
		// secrets/ and private/, where the values belong, and the journal.
		leakscan.Tree("Nomad's files", agentDir, noMounts),
		leakscan.Tree("Nomad's log", h.agent.LogPath, leakscan.TreeOptions{}),
		leakscan.Tree("journal", h.agent.StateDir, leakscan.TreeOptions{Skip: journalValues}),
		leakscan.Processes("processes", h.handlers()...),
		leakscan.Text("Nomad's events", "event stream", h.events.bytes()),
		leakscan.Command("image", "docker", "image", "inspect", h.Images.App),
		leakscan.Command("image", "docker", "image", "history", "--no-trunc", h.Images.App),
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
func (h *hunt) apiOf(alloc *harness.Alloc) []leakscan.Source {
	job := "/v1/job/" + alloc.Job.ID
	all := []leakscan.Source{h.api("/v1/allocation/" + alloc.ID)}
	for _, of := range []string{"", "/versions", "/allocations", "/evaluations", "/summary"} {
		all = append(all, h.api(job+of))
	}
	return append(all, h.apiFiles(alloc, "/")...)
}

// apiFiles asks for all files of an allocation, in all ways. What it refuses is searched, too: of the
// secrets directory it must refuse the content.
func (h *hunt) apiFiles(alloc *harness.Alloc, dir string) []leakscan.Source {
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
func (h *hunt) api(path string) leakscan.Source {
	content, status := h.get(path)
	require.Equal(h.t, http.StatusOK, status, "%s: %s", path, content)
	return leakscan.Text("Nomad's API", path, content)
}

func (h *hunt) get(path string) ([]byte, int) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.ctx, http.MethodGet, h.agent.Addr+path, nil)
	require.NoError(h.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(h.t, err)
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	require.NoError(h.t, err)
	return content, resp.StatusCode
}

func (h *hunt) nodeID() string {
	node, err := h.agent.Node(h.ctx)
	require.NoError(h.t, err)
	return node.ID
}

// handlers are the processes that handle tasks without being their programs: Nomad, the plugins and
// their helpers, Docker and its shims. Their environment is looked at, too.
func (h *hunt) handlers() (pids []int) {
	agentDir := filepath.Dir(h.agent.DataDir())
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		program, _ := os.Readlink(filepath.Join(dir, "exe"))
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		ours := strings.HasPrefix(program, filepath.Join(agentDir, "plugins")+"/") || bytes.Contains(args, []byte("-config="+agentDir))
		switch base := filepath.Base(program); {
		case ours, base == "dockerd", strings.HasPrefix(base, "containerd"):
			pids = append(pids, pid)
		}
	}
	return pids
}

// record keeps Nomad's events from the first on. The stream ends with the test.
func (h *hunt) record() {
	ctx, cancel := context.WithCancel(h.ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.agent.Addr+"/v1/event/stream?index=1&topic=*", nil)
	require.NoError(h.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(h.t, err)
	require.Equal(h.t, http.StatusOK, resp.StatusCode)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = bufio.NewReader(resp.Body).WriteTo(h.events)
		resp.Body.Close()
	}()
	h.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// seesEverywhere looks for what must be in every place: an allocation's id, and a container's.
func (h *hunt) seesEverywhere(alloc *harness.Alloc) {
	h.t.Helper()
	container, err := alloc.Container(h.ctx, "docker")
	require.NoError(h.t, err)
	scanner, err := leakscan.New(leakscan.Canary{Name: "alloc", Value: alloc.ID}, leakscan.Canary{Name: "container", Value: container.ID},
		leakscan.Canary{Name: "image", Value: container.Image})
	require.NoError(h.t, err)
	sources := h.sources(alloc)
	report, err := scanner.Scan(h.ctx, sources...)
	require.NoError(h.t, err)
	seen := map[string]bool{"launcher": true} // one file, the same for all tasks
	for _, hit := range report.Hits {
		seen[hit.Source] = true
	}
	for _, source := range sources {
		if source.Name == "/run/containerd" || source.Name == "/var/lib/containerd" {
			continue // Docker may have a containerd of its own, in its own directories
		}
		require.True(h.t, seen[source.Name], "nothing of the task was found in %s, so the scan does not look there:\n%s", source.Name, lines(report.Hits))
	}
	// Where values may rest, they are found.
	resting := h.scan(leakscan.Tree("journal", h.agent.StateDir, leakscan.TreeOptions{}))
	for _, file := range journalValues {
		require.Contains(h.t, lines(resting.Hits), "/"+file)
	}
}

// execSees runs a shell in a task, whose variable must be this.
func (h *hunt) execSees(alloc *harness.Alloc, task, name, want string) {
	h.t.Helper()
	h.until(fmt.Sprintf("$%s of an exec in %s to be the current one", name, task), func() error {
		out, code, err := alloc.Exec(h.ctx, task, "/bin/sh", "-c", `printf %s "$`+name+`"`)
		switch {
		case err != nil:
			return err
		case code != 0:
			return fmt.Errorf("exit code %d: %s", code, out)
		case out != want:
			return errors.New("it is another")
		}
		return nil
	})
}

// contains waits until a file has this in it.
func (h *hunt) contains(path, want string) {
	h.t.Helper()
	h.until(path+" to have the new content", func() error {
		content, err := os.ReadFile(path)
		if err == nil && !bytes.Contains(content, []byte(want)) {
			err = errors.New("it has other content")
		}
		return err
	})
}

func (h *hunt) output(program string, args ...string) string {
	h.t.Helper()
	out, err := exec.CommandContext(h.ctx, program, args...).CombinedOutput()
	require.NoError(h.t, err, "%s %v: %s", program, args, out)
	return strings.TrimSpace(string(out))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func each(prefix string, names []string) []string {
	var all []string
	for _, name := range names {
		all = append(all, prefix+name)
	}
	return all
}

func sum(value string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(value))) }
