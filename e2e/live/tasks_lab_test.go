package live

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/running"
)

// node is an agent whose tasks have live directories.
type node struct {
	t      *testing.T
	agent  *harness.Agent
	job    *harness.Job
	alloc  *harness.Alloc   // the first
	allocs []*harness.Alloc // all
}

// taskImage has a tag, so that Nomad does not try to pull it.
const taskImage = "live/tasks:1"

// newNode is one with an agent of its own, on the tests' engine.
func newNode(t *testing.T, opts harness.AgentOptions) *node {
	t.Helper()
	agent, err := newAgent(t.Context(), lab.engine, opts)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, agent.Close()) })
	return nodeOf(t, agent)
}

// theNode is the one of the tests that take turns.
func theNode(t *testing.T) *node {
	t.Helper()
	agent, err := theAgent()
	must.NoError(t, err)
	return nodeOf(t, agent)
}

// theAgent starts it, the first time.
var theAgent = sync.OnceValues(func() (*harness.Agent, error) {
	agent, err := newAgent(context.Background(), lab.engine, harness.AgentOptions{Name: "turns"})
	lab.turns = agent
	return agent, err
})

func newAgent(ctx context.Context, engine *harness.Engine, opts harness.AgentOptions) (*harness.Agent, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute) // some start at once
	defer cancel()
	opts.Placement = harness.InPlace
	opts.DockerHCL = `endpoint = "` + engine.Host + `"`
	if out, err := command(ctx, "docker", "-H", engine.Host, "tag", busyboxImage, taskImage).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("tag the image: %w: %s", err, out)
	}
	agent, err := lab.NewAgent(ctx, opts)
	if err != nil {
		return nil, err
	}
	if err := agent.Vault().Policy(ctx, "live", `
path "secret/data/*" { capabilities = ["read"] }
path "pki/issue/web" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }`); err != nil {
		return agent, err
	}
	return agent, agent.Vault().WorkloadRole(ctx, agent.AuthPath, "live", harness.WorkloadRole{Policies: []string{"live"}})
}

func nodeOf(t *testing.T, agent *harness.Agent) *node {
	n := &node{t: t, agent: agent}
	t.Cleanup(func() {
		var jobs []*harness.Job
		if n.job != nil {
			jobs = append(jobs, n.job)
		}
		if t.Failed() {
			var out strings.Builder
			agent.Dump(&out, jobs...)
			t.Log(out.String())
			for _, job := range jobs { // else it is in the next one's way
				_ = job.Stop(context.Background())
			}
		}
	})
	return n
}

// liveTask is a task that reads in its live directory.
type liveTask struct {
	driver  string
	user    string
	args    []string // of the reader; DIR is the live directory and OUT where its stats go
	secrets string   // beside role, splay and stagger; LIVE is the live directory's path in the job
	// variables: its secrets are Nomad Variables, so that it has an identity for those and no role.
	variables bool
}

// drivers are the tasks' names, and what they are run by.
var drivers = []string{"docker", "raw_exec"}

func (l liveTask) hcl() string {
	config, dir, live := `
        image        = "`+taskImage+`"
        network_mode = "none"
        command      = "/bin/reader"`, "/run/app", "/run/app"
	if l.driver == "raw_exec" {
		config, dir, live = fmt.Sprintf("\n        command = %q", filepath.Join(lab.Dir(), "bin", "reader")), "${NOMAD_SECRETS_DIR}/live/app", "live/app"
	}
	identity, role := "", `role    = "live"`
	if l.variables {
		identity, role = "identity {\n        file     = true\n        filepath = \"private/nomad.jwt\"\n      }", ""
	}
	args := strings.NewReplacer("DIR", dir, "OUT", "${NOMAD_ALLOC_DIR}/"+l.driver).Replace(strings.Join(l.args, `", "`))
	return fmt.Sprintf(`
    task "%s" {
      driver = %[1]q
      user   = %q
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      %s
      config {%s
        args    = ["%s"]
        %s
        splay   = "0s"
        stagger = "0s"
%s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
`, l.driver, l.user, identity, config, args, role, strings.ReplaceAll(l.secrets, "LIVE", live))
}

// run runs a job with a task of each driver.
func (n *node) run(name string, of func(driver string) liveTask) {
	n.t.Helper()
	n.runMany(name, 1, of)
}

// runMany runs so many of each.
func (n *node) runMany(name string, count int, of func(driver string) liveTask) {
	n.t.Helper()
	var tasks strings.Builder
	for _, driver := range drivers {
		task := of(driver)
		task.driver = driver
		tasks.WriteString(task.hcl())
	}
	var err error
	n.job, err = n.agent.Submit(n.t.Context(), fmt.Sprintf("job %q {\n  group \"g\" {\n    count = %d\n%s  }\n}", name, count, tasks.String()))
	must.NoError(n.t, err)
	ctx, cancel := context.WithTimeout(n.t.Context(), 5*time.Minute)
	defer cancel()
	n.allocs, err = n.job.AllRunning(ctx, count)
	must.NoError(n.t, err)
	n.alloc = n.allocs[0]
	for _, r := range n.readers() {
		r.until("a read", 60*time.Second, func(s stats) bool { return s.Reads > s.Errors })
	}
}

// readers are the tasks' of all allocations.
func (n *node) readers() (all []*reader) {
	for _, alloc := range n.allocs {
		for _, driver := range drivers {
			all = append(all, &reader{t: n.t, name: driver, out: alloc.Dir("alloc", driver)})
		}
	}
	return all
}

func (n *node) stats(task string) (s stats, err error) {
	b, err := os.ReadFile(n.alloc.Dir("alloc", task))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}

// until waits for something in the stats of a task's reader.
func (n *node) until(task, what string, within time.Duration, cond func(stats) bool) stats {
	n.t.Helper()
	r := &reader{t: n.t, out: n.alloc.Dir("alloc", task)}
	return r.until(task+": "+what, within, cond)
}

// dir is a task's live directory as the host has it.
func (n *node) dir(task string) string {
	n.t.Helper()
	if task == "raw_exec" {
		return filepath.Join(n.alloc.SecretsDir(task), "live", "app")
	}
	return filepath.Join("/proc", fmt.Sprint(n.pid(task)), "root", "run", "app")
}

// pids are the processes of all tasks.
func (n *node) pids() (all []int) {
	n.t.Helper()
	for _, alloc := range n.allocs {
		for _, task := range drivers {
			one := node{t: n.t, alloc: alloc}
			all = append(all, one.pid(task))
		}
	}
	return all
}

// pid is a task's process.
func (n *node) pid(task string) int {
	n.t.Helper()
	pid := n.lookForPID(task)
	must.Positive(n.t, pid, must.Sprintf("task %s has no process", task))
	return pid
}

// lookForPID is 0 if there is none.
func (n *node) lookForPID(task string) int {
	n.t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must.NoError(n.t, err)
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		if filepath.Base(args[0]) != "reader" || len(args) < 3 {
			continue
		}
		env, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "environ"))
		if strings.Contains(string(env), "NOMAD_ALLOC_ID="+n.alloc.ID) && strings.Contains(string(env), "NOMAD_TASK_NAME="+task+"\x00") {
			var pid int
			_, _ = fmt.Sscanf(p, "/proc/%d/", &pid)
			return pid
		}
	}
	return 0
}

// servers are the file servers of the agent's plugins.
func (n *node) servers() []int { return running.Servers(n.agent.StateDir) }

// kill kills the plugins of both drivers.
func (n *node) killPlugins() {
	n.t.Helper()
	for _, driver := range drivers {
		must.NoError(n.t, n.agent.KillPlugin(driver))
	}
}

// pluginsAreBack waits until each driver has a plugin that is not one of those.
func (n *node) pluginsAreBack() {
	n.t.Helper()
	must.NoError(n.t, harness.Until(n.t.Context(), "the plugins", func() error {
		for _, driver := range drivers {
			if _, err := n.agent.PluginPID(driver); err != nil {
				return err
			}
		}
		return nil
	}))
}

// nothingLeft waits until no mount of a live directory and no file server is left of the agent's.
func (n *node) nothingLeft(within time.Duration) {
	n.t.Helper()
	begin := time.Now()
	for {
		var left []string
		for _, m := range mountsBelow(n.t, n.agent.StateDir) {
			if m != filepath.Join(n.agent.StateDir, "shared") && m != n.agent.JournalDir() {
				left = append(left, m)
			}
		}
		places, err := filepath.Glob(filepath.Join(n.agent.StateDir, "shared", "live", "*"))
		must.NoError(n.t, err)
		left = append(left, places...)
		for _, pid := range n.servers() {
			left = append(left, fmt.Sprint("file server ", pid))
		}
		left = append(left, blocked()...)
		if len(left) == 0 {
			return
		}
		must.Less(n.t, within, time.Since(begin), must.Sprint(left))
		time.Sleep(50 * time.Millisecond)
	}
}

func command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

func sendTo(t *testing.T, pids []int, sig syscall.Signal) {
	t.Helper()
	must.Len(t, 1, pids)
	must.NoError(t, syscall.Kill(pids[0], sig))
}
