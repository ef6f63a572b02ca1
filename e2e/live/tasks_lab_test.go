package live

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// node is an agent whose tasks have live directories.
type node struct {
	t     *testing.T
	agent *harness.Agent
	job   *harness.Job
	alloc *harness.Alloc
}

// taskImage has a tag, so that Nomad does not try to pull it.
const taskImage = "live/tasks:1"

func newNode(t *testing.T, opts harness.AgentOptions) *node {
	t.Helper()
	opts.Placement = harness.InPlace
	opts.DockerHCL = `endpoint = "` + lab.engine.Host + `"`
	mustDocker(t, "tag", lab.busybox, taskImage)
	agent, err := lab.NewAgent(t.Context(), opts)
	must.NoError(t, err)
	n := &node{t: t, agent: agent}
	t.Cleanup(func() {
		if t.Failed() {
			var out strings.Builder
			jobs := []*harness.Job{}
			if n.job != nil {
				jobs = append(jobs, n.job)
			}
			agent.Dump(&out, jobs...)
			t.Log(out.String())
		}
		must.NoError(t, agent.Close())
	})
	must.NoError(t, agent.Vault().Policy(t.Context(), "live", `
path "secret/data/*" { capabilities = ["read"] }
path "pki/issue/web" { capabilities = ["update"] }
path "sys/leases/revoke" { capabilities = ["update"] }`))
	must.NoError(t, agent.Vault().WorkloadRole(t.Context(), agent.AuthPath, "live", harness.WorkloadRole{Policies: []string{"live"}}))
	return n
}

// liveTask is a task that reads in its live directory.
type liveTask struct {
	driver  string
	user    string
	args    []string // of the reader; DIR is the live directory and OUT where its stats go
	secrets string   // beside role, splay and stagger; LIVE is the live directory's path in the job
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
      config {%s
        args    = ["%s"]
        role    = "live"
        splay   = "0s"
        stagger = "0s"
%s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
`, l.driver, l.user, config, args, strings.ReplaceAll(l.secrets, "LIVE", live))
}

// run runs a job with a task of each driver.
func (n *node) run(name string, of func(driver string) liveTask) {
	n.t.Helper()
	var tasks strings.Builder
	for _, driver := range drivers {
		task := of(driver)
		task.driver = driver
		tasks.WriteString(task.hcl())
	}
	var err error
	n.job, err = n.agent.Submit(n.t.Context(), fmt.Sprintf("job %q {\n  group \"g\" {%s  }\n}", name, tasks.String()))
	must.NoError(n.t, err)
	n.alloc, err = n.job.Running(n.t.Context())
	must.NoError(n.t, err)
	for _, driver := range drivers {
		n.until(driver, "a read", 20*time.Second, func(s stats) bool { return s.Reads > s.Errors })
	}
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
func (n *node) servers() []int {
	d := &daemon{dir: n.agent.StateDir}
	return d.servers()
}

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
