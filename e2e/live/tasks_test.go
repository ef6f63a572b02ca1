package live

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
)

// What a task's own user sees in a live directory, what others see, and how soon a change is there.
func TestLiveDirOfATask(t *testing.T) {
	t.Parallel()
	put(t, "tasks", "user", "one", "password", "one")
	n := newNode(t, harness.AgentOptions{Name: "tasks"})
	users := map[string]string{"docker": "1000", "raw_exec": "nobody"}
	uids := map[string]uint32{"docker": 1000, "raw_exec": 65534}
	n.run("tasks", func(driver string) liveTask {
		return liveTask{user: users[driver], args: []string{"pairs", "200", "OUT", "DIR"}, secrets: `
        secret "app" {
          path     = "secret/tasks"
          live_dir = "LIVE"
        }`}
	})
	inode := map[string]int{}
	for _, task := range drivers {
		n.looksLikeOne(task)
		inode[task] = n.pid(task)
	}

	// Each process has pairs that match, over many changes. How soon each is there, readers that leave the machine some time
	// show: TestLiveDirOutlivesPluginAndAgent.
	for i := range times(10, 50) {
		v := fmt.Sprint("value ", i)
		put(t, "tasks", "user", v, "password", v)
		n.seen(v, 20*time.Second)
	}
	for _, task := range drivers {
		s, err := n.stats(task)
		must.NoError(t, err)
		must.Zero(t, s.Errors, must.Sprint(task, s.FirstError))
		must.Zero(t, s.Mismatches, must.Sprint(task))
		must.Eq(t, inode[task], n.pid(task), must.Sprint(task, "was restarted"))
		events, err := n.alloc.Events(t.Context(), task)
		must.NoError(t, err)
		must.Len(t, 2, containing(events, "Secrets: "), must.Sprint(events)) // whose rights, and what it gets
		n.audited(task, uids[task])
	}
	must.NoError(t, n.job.Stop(t.Context()))
	n.nothingLeft(15 * time.Second)
}

func containing(lines []string, text string) (found []string) {
	for _, line := range lines {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// looksLikeOne tries a live directory as the task's user, and as others.
func (n *node) looksLikeOne(task string) {
	n.t.Helper()
	uid := map[string]string{"docker": "1000", "raw_exec": "65534"}[task]
	dir := map[string]string{"docker": "/run/app", "raw_exec": n.dir(task)}[task]
	as := func(uid, script string) string {
		n.t.Helper()
		var run []string
		if task == "docker" {
			run = []string{"docker", "-H", lab.engine.Host, "exec", "-u", uid, task + "-" + n.alloc.ID, "sh", "-c", script}
		} else {
			run = []string{"setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "sh", "-c", script}
		}
		ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
		defer cancel()
		out, _ := command(ctx, run...).CombinedOutput()
		return string(out)
	}
	must.Eq(n.t, "one<>*", as(uid, fmt.Sprintf(`cd %s && cat user; printf "<$(ls -A)>"; printf %%s *`, dir)), must.Sprint(task))
	must.StrContains(n.t, as(uid, "cat "+dir+"/made-up"), "No such file")
	for _, write := range []string{"echo x > %s/user", "echo x >> %s/new", "rm %s/user", "mkdir %s/sub", "mv %[1]s/user %[1]s/other", "chmod 777 %s/user", "ln -s x %s/link"} {
		must.StrContains(n.t, as(uid, fmt.Sprintf(write, dir)), "Read-only file system", must.Sprint(task, write))
	}
	other := as("1234", "cat "+dir+"/user; ls "+dir)
	must.StrContains(n.t, other, "Permission denied", must.Sprint(task))
	must.StrNotContains(n.t, other, "one")
	if task == "raw_exec" { // the link is root's
		must.StrContains(n.t, as(uid, "rm "+dir+"; ln -sfn /etc "+dir+"; cat "+dir+"/user"), "one")
	}
	// Nobody on the host reaches the container's through the state directory, either.
	places, err := filepath.Glob(filepath.Join(n.agent.StateDir, "shared", "live", "*"))
	must.NoError(n.t, err)
	must.SliceNotEmpty(n.t, places)
	for _, place := range places {
		out, err := command(n.t.Context(), "setpriv", "--reuid", "1234", "--clear-groups", "cat", place+"/user").CombinedOutput()
		must.Error(n.t, err)
		must.StrContains(n.t, string(out), "Permission denied")
	}
}

// audited looks for a task's opens in the audit log: who, what, and no value.
func (n *node) audited(task string, uid uint32) {
	n.t.Helper()
	path := filepath.Join(n.agent.StateDir, "audit", task+".log")
	info, err := os.Stat(path)
	must.NoError(n.t, err)
	must.Eq(n.t, 0o600, info.Mode().Perm())
	f, err := os.Open(path)
	must.NoError(n.t, err)
	defer f.Close()
	results := map[string]int{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var line live.AuditLine
		must.NoError(n.t, json.Unmarshal(lines.Bytes(), &line))
		if line.Alloc == n.alloc.ID && line.Task == task && line.Secret == "app" && line.UID == uid && line.PID != 0 && line.Field != "" {
			results[line.Result]++
		}
		must.StrNotContains(n.t, lines.Text(), "value ")
	}
	must.Positive(n.t, results["ok"], must.Sprint(task, results))
	must.Positive(n.t, results["unknown"], must.Sprint(task, results))
}

// A restart in place keeps the directory, beside variables of the same secret, which change as ever.
func TestLiveDirAndRestartInPlace(t *testing.T) {
	t.Parallel()
	put(t, "restarts", "user", "zero")
	n := newNode(t, harness.AgentOptions{Name: "restarts"})
	n.run("restarts", func(string) liveTask {
		return liveTask{args: []string{"rate", "50", "OUT", "DIR/user"}, secrets: `
        secret "app" {
          path     = "secret/restarts"
          live_dir = "LIVE"
          env      = { APP_USER = "user" }
          files    = true
        }`}
	})
	for _, v := range []string{"one", "two", "three"} {
		before := map[string]int{}
		for _, task := range drivers {
			before[task] = n.pid(task)
		}
		if v == "three" { // which it finds dead
			sendTo(t, n.servers(), syscall.SIGKILL)
		}
		put(t, "restarts", "user", v)
		for _, task := range drivers {
			must.NoError(t, harness.Until(t.Context(), task+" to be restarted", func() error {
				pid := n.lookForPID(task)
				env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
				if pid == before[task] || !strings.Contains(string(env), "APP_USER="+v+"\x00") {
					return fmt.Errorf("process %d", pid)
				}
				return nil
			}))
			n.until(task, "the value after the restart", 20*time.Second, func(s stats) bool { return s.Seen[v] != 0 && len(s.Seen) == 1 && s.Errors == 0 })
			restarts, err := n.alloc.Restarts(t.Context(), task)
			must.NoError(t, err)
			must.Zero(t, restarts)
		}
	}
	must.NoError(t, n.job.Stop(t.Context()))
	n.nothingLeft(15 * time.Second)
}
