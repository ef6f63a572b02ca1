package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// collidingTasks are names that a careless mapping to files, variables or containers makes one. Docker
// itself takes fewer.
var collidingTasks = map[string][]string{
	"raw_exec": {"a b", "a_b", "a%20b", ".owed", "\u00e9", "e\u0301", strings.Repeat("x", 140) + "1", strings.Repeat("x", 140) + "2"},
	"docker":   {"c-d", "c_d"},
}

// collidingJob is a job with all of these tasks. Each has two secrets: its own, and one that it shares
// with the other job; all by the same names.
type collidingJob struct {
	l     *lab.Lab
	id    string
	role  string // also where the own secrets are
	alloc *harness.Alloc
	tasks []collidingTask
}

type collidingTask struct {
	name, driver string
	own          string // the path below the mount
}

func newCollidingJob(l *lab.Lab, id, role string) *collidingJob {
	j := &collidingJob{l: l, id: id, role: role}
	for driver, names := range collidingTasks {
		for _, name := range names {
			j.tasks = append(j.tasks, collidingTask{name, driver, fmt.Sprintf("%s/%d", role, len(j.tasks))})
		}
	}
	return j
}

func (j *collidingJob) hcl() string {
	var tasks strings.Builder
	for _, task := range j.tasks {
		image := ""
		if task.driver == "docker" {
			image = `image = "${meta.image}"`
		}
		fmt.Fprintf(&tasks, `
    task %q {
      driver = %q
      %s
      config {
        %s
        command = "testapp"
        args    = ["env", "OWN_VALUE", "BOTH_VALUE"]
        role    = %q
        splay   = "0s"
        stagger = "0s"
        secret "own" {
          path       = "collide/%s"
          env_prefix = "OWN_"
          files      = true
        }
        secret "both" {
          path       = "collide/both"
          env_prefix = "BOTH_"
          files      = true
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }`, task.name, task.driver, lab.IdentityBlock, image, j.role, task.own)
	}
	return fmt.Sprintf("job %q {\n  group \"g\" {%s\n  }\n}", j.id, tasks.String())
}

// putColliding writes a secret of the mount; the value tells where it is from.
func putColliding(l *lab.Lab, path, version string) {
	l.T.Helper()
	require.NoError(l.T, l.Vault.PutKV2(l.Ctx, "collide", path, map[string]any{"value": path + " is " + version}))
}

// have waits until each task of the job has been started n times, and has these versions of its secrets,
// and nothing of anybody else's: in the environment of its process, and in its files.
func (j *collidingJob) have(n int, own, both string) {
	j.l.T.Helper()
	for _, task := range j.tasks {
		wantOwn, wantBoth := task.own+" is "+own, "both is "+both
		started := j.l.Lines(j.alloc, task.name, "env OWN_VALUE=", n)
		require.Len(j.l.T, started, n, "starts of %q in %s", task.name, j.id)
		require.Equal(j.l.T, fmt.Sprintf("%q", wantOwn), started[n-1], "%q in %s", task.name, j.id)
		require.Equal(j.l.T, fmt.Sprintf("%q", wantBoth), j.l.Lines(j.alloc, task.name, "env BOTH_VALUE=", n)[n-1], "%q in %s", task.name, j.id)

		h := lab.NewLeakSearch(j.l)
		environ, err := os.ReadFile(filepath.Join(h.ProcDir(j.alloc, task.name), "environ"))
		require.NoError(j.l.T, err)
		values := 0
		for _, variable := range bytes.Split(environ, []byte{0}) {
			if name, value, _ := strings.Cut(string(variable), "="); strings.Contains(value, " is ") {
				require.Equal(j.l.T, map[string]string{"OWN_VALUE": wantOwn, "BOTH_VALUE": wantBoth}[name], value, "%s of %q in %s", name, task.name, j.id)
				values++
			}
		}
		require.Equal(j.l.T, 2, values, "variables with values of %q in %s", task.name, j.id)
		for file, want := range map[string]string{"own/value": wantOwn, "both/value": wantBoth} {
			content, err := os.ReadFile(filepath.Join(j.alloc.SecretsDir(task.name), file))
			require.NoError(j.l.T, err)
			require.Equal(j.l.T, want, string(content), "file %s of %q in %s", file, task.name, j.id)
		}
	}
}

// journalled: each task has a journal of its own, in the directory of its driver and allocation.
func (j *collidingJob) journalled() {
	j.l.T.Helper()
	for driver, names := range collidingTasks {
		entries, err := filepath.Glob(filepath.Join(j.l.Agent.JournalDir(), j.l.Agent.Driver(driver), j.alloc.ID, "*", "entry.json"))
		require.NoError(j.l.T, err)
		var found []string
		for _, path := range entries {
			content, err := os.ReadFile(path)
			require.NoError(j.l.T, err)
			var entry struct {
				Task struct{ AllocID, Name string }
			}
			require.NoError(j.l.T, json.Unmarshal(content, &entry))
			require.Equal(j.l.T, j.alloc.ID, entry.Task.AllocID)
			found = append(found, entry.Task.Name)
		}
		require.ElementsMatch(j.l.T, names, found, "tasks with a journal of %s", j.id)
	}
}

// Two jobs, whose names and whose tasks' names collide wherever a name is mapped carelessly, share a
// poll of one secret and have others of their own. Each task has just its own, from start to end; and a
// job that has lost its right gets no copy of what the other still may read (C5).
func TestJobsWhoseNamesCollide(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	require.NoError(t, l.Vault.EnableKV2(l.Ctx, "collide"))
	left, right := newCollidingJob(l, "collide/a.b", "collide-left"), newCollidingJob(l, "collide_a.b", "collide-right")
	putColliding(l, "both", "first")
	for _, job := range []*collidingJob{left, right} {
		l.Allow(job.role, "collide/data/both", "collide/data/"+job.role+"/*")
		for _, task := range job.tasks {
			putColliding(l, task.own, "first")
		}
	}
	for _, job := range []*collidingJob{left, right} {
		submitted := l.Submit(job.hcl())
		var err error
		job.alloc, err = submitted.Running(l.Ctx)
		require.NoError(t, err)
	}
	for _, job := range []*collidingJob{left, right} {
		job.have(1, "first", "first")
		job.journalled()
	}

	// Others, with names of the first one's tasks and the role of the second.
	for _, task := range left.tasks {
		if task.name != "a_b" && task.name != "c_d" {
			continue
		}
		thief := collidingJob{id: "collide.a.b-" + task.driver, role: right.role, tasks: []collidingTask{task}}
		alloc, err := l.Submit(thief.hcl()).Failed(l.Ctx)
		require.NoError(t, err)
		_, err = alloc.WaitEvent(l.Ctx, task.name, fmt.Sprintf("read collide/%s: permission denied", task.own))
		require.NoError(t, err)
		for _, secret := range []string{"own", "both"} {
			_, err = os.Stat(filepath.Join(alloc.SecretsDir(task.name), secret))
			require.ErrorIs(t, err, os.ErrNotExist, "%q of %s", task.name, thief.id)
		}
	}

	// What both may read changes, and reaches all.
	putColliding(l, "both", "second")
	left.have(2, "first", "second")
	right.have(2, "first", "second")

	// The second job loses its right. Of what comes then it gets nothing, though it is polled for both.
	l.SetPolicy(right.role, "collide/data/"+right.role+"/*")
	mark, written := l.Now()
	putColliding(l, "both", "third")
	left.have(3, "first", "third")
	for _, task := range right.tasks {
		event, err := right.alloc.WaitEvent(l.Ctx, task.name, `not rotated: secret "both"`)
		require.NoError(t, err)
		require.Contains(t, event, "permission denied")
	}
	l.Until("the secret to be polled on for the first job", func() error {
		reads, err := l.Vault.Requests(mark, "collide/data/both")
		if err == nil && !slices.ContainsFunc(reads, func(r harness.Request) bool {
			return r.Job == left.id && r.Error == "" && r.Time.After(written.Add(2*lab.PollInterval))
		}) {
			err = fmt.Errorf("%d requests", len(reads))
		}
		return err
	})
	right.have(2, "first", "second")

	// What is one task's own changes, and reaches that task alone.
	changed, rest := *right, *right
	changed.tasks, rest.tasks = nil, nil
	for _, task := range right.tasks {
		if slices.Contains([]string{"a_b", "c_d", collidingTasks["raw_exec"][7]}, task.name) {
			putColliding(l, task.own, "changed")
			changed.tasks = append(changed.tasks, task)
		} else {
			rest.tasks = append(rest.tasks, task)
		}
	}
	changed.have(3, "changed", "second")
	rest.have(2, "first", "second")
	left.have(3, "first", "third")
	for _, alloc := range []*harness.Alloc{left.alloc, right.alloc} {
		info, err := alloc.Info(l.Ctx)
		require.NoError(t, err)
		for name, state := range info.TaskStates {
			require.Zero(t, state.Restarts, "Nomad restarted %q", name)
		}
	}
}
