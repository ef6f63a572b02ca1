package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

const (
	// stepBound is how long one kill and all that belongs to it may take.
	stepBound = 150 * time.Second
	// healBound is how long after a kill all tasks may take to be as they should be.
	healBound = 60 * time.Second
	// strayBound is how long a credential may outlive the kill that orphaned it (E2's exception).
	strayBound = 40 * time.Second
)

// crashMatrix is one driver's tasks, its plugin's crash points, and what came of them.
type crashMatrix struct {
	*lab.Lab
	driver string
	mark   string // in the names of all that is this matrix's
	plugin string // its file
	dir    string // where crash points are asked for

	tasks  []*crashTask // that are to run
	made   int
	kindOf map[string]crashKind // of each task that there was
	rows   []crashRow
	deaths map[crashKind]int // by the kind of the task that the plugin died for
	lost   int               // users that Vault made and has no lease of
}

type crashTask struct {
	name     string
	kind     crashKind
	job      *harness.Job
	alloc    *harness.Alloc
	restarts uint64 // by Nomad, so far
}

// crashRow is what came of one kill.
type crashRow struct {
	phase     string
	point     crashpoint.Point
	healed    time.Duration
	restarted []string // the tasks that Nomad restarted since the kill before it, each as often as it did
	tasks     int      // that there are
	strays    int      // credentials that were nobody's
	strayFor  time.Duration
	err       error
}

// installCrashtest replaces an agent's plugins by ones that die when asked to.
func installCrashtest(t *testing.T, agent *harness.Agent) {
	root, err := harness.RepoRoot()
	require.NoError(t, err)
	plugin := filepath.Join(t.TempDir(), "plugin")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "crashtest", "-o", plugin, "./cmd/plugin")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	for _, driver := range []string{"docker", "raw_exec"} {
		require.NoError(t, agent.InstallPlugin(plugin, driver))
		require.NoError(t, os.MkdirAll(filepath.Join(crashDir(agent, driver), "hit"), 0o755))
	}
	require.NoError(t, agent.Restart(t.Context()))
}

func crashDir(agent *harness.Agent, driver string) string {
	return filepath.Join(filepath.Dir(agent.DataDir()), "plugins", driver+crashpoint.DirSuffix)
}

// newCrashMatrix makes a matrix with tasks of a driver. The mark, of five or six letters, is its own.
func newCrashMatrix(t *testing.T, agent *harness.Agent, driver, mark string) *crashMatrix {
	l := newLabOn(t, agent)
	m := &crashMatrix{
		Lab: l, driver: driver, mark: mark, dir: crashDir(agent, driver),
		kindOf: map[string]crashKind{}, deaths: map[crashKind]int{},
	}
	m.plugin = strings.TrimSuffix(m.dir, crashpoint.DirSuffix)
	m.within(stepBound)
	m.setUp()
	return m
}

// within bounds the waits from here on.
func (m *crashMatrix) within(bound time.Duration) {
	ctx, cancel := context.WithTimeout(m.T.Context(), bound)
	m.T.Cleanup(cancel)
	m.Ctx = ctx
}

// start starts tasks that nothing happens to at their start.
func (m *crashMatrix) start(kind crashKind, n int) {
	m.within(stepBound)
	var jobs []*harness.Job
	for range n {
		jobs = append(jobs, m.submit(m.nextName(), kind))
	}
	for _, job := range jobs {
		m.add(job, kind)
	}
	require.NoError(m.T, m.healed(m.Ctx))
}

func (m *crashMatrix) nextName() string {
	m.made++
	return fmt.Sprintf("%s-%d", m.mark, m.made)
}

// add makes a job's task one of those that are to run.
func (m *crashMatrix) add(job *harness.Job, kind crashKind) {
	alloc, err := job.Running(m.Ctx)
	require.NoError(m.T, err)
	m.tasks = append(m.tasks, &crashTask{name: job.ID, kind: kind, job: job, alloc: alloc})
}

// strike is one death of the plugin.
type strike struct {
	of      []string // the tasks that it may die for; none: whatever task comes first
	provoke func()
}

// atStart kills the plugin at a point in the start of new tasks, one after the other.
func (m *crashMatrix) atStart(p crashpoint.Point, kinds ...crashKind) {
	var strikes []strike
	for _, kind := range kinds {
		name := m.nextName()
		strikes = append(strikes, strike{[]string{name}, func() { m.add(m.submit(name, kind), kind) }})
	}
	phase := "start"
	if kinds[0] == vaultBlock {
		phase = "start, vault block"
	}
	m.kill(phase, p, hadNoProcess(p), strikes...)
}

// whileRunning kills the plugin when the first task comes to a point.
func (m *crashMatrix) whileRunning(phase string, points ...crashpoint.Point) {
	for _, p := range points {
		m.kill(phase, p, hadNoProcess(p), strike{provoke: func() {}})
	}
}

// whileOneRuns is whileRunning for the first task of a kind.
func (m *crashMatrix) whileOneRuns(kind crashKind, phase string, points ...crashpoint.Point) {
	var names []string
	for _, task := range m.tasks {
		if task.kind == kind {
			names = append(names, task.name)
		}
	}
	for _, p := range points {
		m.kill(phase, p, hadNoProcess(p), strike{names, func() {}})
	}
}

// hadNoProcess says which tasks Nomad may restart after a kill at a point of a rotation.
func hadNoProcess(p crashpoint.Point) func(task *crashTask, victims []string) bool {
	return func(task *crashTask, victims []string) bool {
		if slices.Contains(victims, task.name) {
			// Without a process nobody writes to the log pipes: then only Nomad, who restarts the
			// task, can bring its logs back (docs/nomad.md).
			return p == crashpoint.OldStopped || p == crashpoint.OldDestroyed
		}
		return task.kind != slowLease // then it may have been without a process by chance
	}
}

// atRecovery kills the plugin, and the one that comes after it, too. Nomad restarts a task whose
// recovery failed.
func (m *crashMatrix) atRecovery(points ...crashpoint.Point) {
	for _, p := range points {
		m.kill("recovery", p, func(*crashTask, []string) bool { return true }, strike{provoke: func() {
			require.NoError(m.T, m.Agent.KillPlugin(m.driver))
		}})
	}
}

// atEnd kills the plugin at a point in the end of tasks, one after the other: of one with a batch token, if there is any, and of one
// without.
func (m *crashMatrix) atEnd(points ...crashpoint.Point) {
	batch := func(task *crashTask) bool { return task.kind == batchToken }
	for _, p := range points {
		var strikes []strike
		for _, last := range []*crashTask{m.take(batch), m.take(func(task *crashTask) bool { return !batch(task) })} {
			if last == nil {
				continue
			}
			strikes = append(strikes, strike{[]string{last.name}, func() { m.end(last) }})
		}
		m.kill("end", p, hadNoProcess(p), strikes...)
	}
}

// take takes out the last of the tasks that are to run and are such; nil: there is none.
func (m *crashMatrix) take(which func(*crashTask) bool) *crashTask {
	for i, task := range slices.Backward(m.tasks) {
		if which(task) {
			m.tasks = slices.Delete(m.tasks, i, i+1)
			return task
		}
	}
	return nil
}

// keep ends tasks of a kind until n of them are left.
func (m *crashMatrix) keep(kind crashKind, n int) {
	m.within(stepBound)
	var rest []*crashTask
	for _, task := range m.tasks {
		if task.kind == kind {
			rest = append(rest, task)
		}
	}
	var stops errgroup.Group
	for _, task := range rest[:len(rest)-n] {
		m.take(func(t *crashTask) bool { return t == task })
		stops.Go(func() error { return task.job.Stop(m.Ctx) })
	}
	require.NoError(m.T, stops.Wait())
	for _, task := range rest[:len(rest)-n] {
		m.Until("nothing of "+task.name+" to be left", func() error { return m.left(task) })
	}
}

func (m *crashMatrix) end(task *crashTask) {
	require.NoError(m.T, task.job.Stop(m.Ctx))
	m.Until("nothing of "+task.name+" to be left", func() error { return m.left(task) })
}

// kill has the plugin die at a point, once a strike, and waits until all is well again.
func (m *crashMatrix) kill(phase string, p crashpoint.Point, mayRestart func(task *crashTask, victims []string) bool, strikes ...strike) {
	m.T.Helper()
	m.within(stepBound)
	var died time.Time
	var victims []string
	for i, s := range strikes {
		if i > 0 { // a plugin that dies while Nomad gives it its tasks back costs others theirs: that is atRecovery's
			require.NoError(m.T, m.healed(m.Ctx))
		}
		var victim string
		victim, died = m.die(phase, p, s)
		victims = append(victims, victim)
	}

	row := crashRow{phase: phase, point: p, tasks: len(m.tasks)}
	ctx, cancel := context.WithTimeout(m.Ctx, healBound)
	defer cancel()
	row.err = m.healed(ctx)
	row.healed = time.Since(died)
	for _, task := range m.tasks {
		n, err := task.alloc.Restarts(m.Ctx, task.name)
		require.NoError(m.T, err)
		if n == task.restarts {
			continue
		}
		for ; task.restarts < n; task.restarts++ {
			row.restarted = append(row.restarted, task.name)
		}
		if !mayRestart(task, victims) {
			row.err = errors.Join(row.err, fmt.Errorf("Nomad restarted %s (the plugin died for %s)", task.name, victims))
		}
	}
	var err error
	row.strays, err = m.strays(m.Ctx)
	row.err = errors.Join(row.err, err)
	row.strayFor = time.Since(died)
	m.rows = append(m.rows, row)
	for _, victim := range victims {
		m.deaths[m.kindOf[victim]]++
	}
	if row.err != nil {
		m.T.Errorf("%s: killed at %s: %v", phase, p, row.err)
		require.NoError(m.T, m.healed(m.Ctx)) // there is no going on from here
	}
}

// die asks for the plugin's death at a point, provokes it, and says for which task it died, and when.
func (m *crashMatrix) die(phase string, p crashpoint.Point, s strike) (victim string, died time.Time) {
	m.T.Helper()
	asked := []string{string(p)}
	if len(s.of) > 0 {
		asked = nil
		for _, task := range s.of {
			asked = append(asked, string(p)+"@"+task)
		}
	}
	for _, name := range asked {
		require.NoError(m.T, os.WriteFile(filepath.Join(m.dir, name), nil, 0o600))
	}
	s.provoke()
	var hit string
	m.Until(fmt.Sprintf("a death at %s (%s)", p, phase), func() error {
		found, _ := filepath.Glob(filepath.Join(m.dir, "hit", "*"))
		if len(found) == 0 {
			return errors.New("the point was not reached")
		}
		hit = found[0]
		return nil
	})
	info, err := os.Lstat(hit)
	require.NoError(m.T, err)
	for _, name := range asked { // of several, one is enough
		_ = os.Remove(filepath.Join(m.dir, name))
	}
	found, _ := filepath.Glob(filepath.Join(m.dir, "hit", "*"))
	for _, file := range found { // a second task may have come to the point as the process died
		require.NoError(m.T, os.Remove(file))
	}
	_, victim, _ = strings.Cut(filepath.Base(hit), "@")
	return victim, inodeChanged(info)
}

// points are those that the plugin was killed at.
func (m *crashMatrix) points() (all []crashpoint.Point) {
	for _, r := range m.rows {
		all = append(all, r.point)
	}
	return all
}

// forgottenCollector reports whether a process is a log collector of the wrapped docker driver's that never had a task: the plugin
// died between starting it and telling it what to collect. Nobody knows of it then, under the built-in driver neither; it has no
// log pipe, no secret and nothing to do.
func forgottenCollector(p hostProc) bool {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	return p.args[1] == "docker_logger" && strings.Contains(string(status), "\nPPid:\t1\n") && !slices.ContainsFunc(openFiles(p.pid), func(path string) bool { return strings.Contains(path, ".fifo") })
}

// finish stops all tasks, and looks for what is left.
func (m *crashMatrix) finish() {
	m.within(stepBound)
	for _, task := range m.tasks {
		refused, err := task.alloc.Lines(task.name, "refused ")
		require.NoError(m.T, err)
		if len(refused) > 0 {
			m.T.Errorf("task %s was refused %d times: %s", task.name, len(refused), refused[0])
		}
	}
	m.StopJobs()
	for _, task := range m.tasks {
		m.Until("nothing of "+task.name+" to be left", func() error { return m.left(task) })
	}
	m.tasks = nil
	m.Until("no helper process to be left", func() error {
		for _, p := range readHostProcs() {
			if len(p.args) > 1 && p.args[0] == m.plugin && !forgottenCollector(p) {
				return fmt.Errorf("process %d: %s", p.pid, p.args)
			}
		}
		return nil
	})
	m.Until("an empty journal", func() error {
		for _, pattern := range []string{"*/*", ".owed/*", ".owed/.*"} {
			found, _ := filepath.Glob(filepath.Join(m.Agent.JournalDir(), m.driver, pattern))
			if found = slices.DeleteFunc(found, func(f string) bool { return filepath.Base(f) == ".owed" }); len(found) > 0 {
				return fmt.Errorf("there is %s", found)
			}
		}
		return nil
	})
	m.Until("no lease", func() error {
		for _, role := range []string{"slow", "fast"} {
			if leases, err := m.Vault.Leases(m.Ctx, m.mark+"/creds/"+m.mark+role); err != nil || len(leases) > 0 {
				return fmt.Errorf("%v, %w", leases, err)
			}
		}
		return nil
	})

	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "phase\tkilled when\tall well after\trestarts by Nomad for it\torphaned credentials\tthe last died after")
	for _, r := range m.rows {
		strays, died := "none", ""
		if r.strays > 0 {
			strays, died = fmt.Sprint(r.strays), r.strayFor.Round(100*time.Millisecond).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%v\t%d of %d tasks\t%s\t%s\n", r.phase, r.point, r.healed.Round(100*time.Millisecond), len(r.restarted), r.tasks, strays, died)
	}
	w.Flush()
	m.T.Logf("%s: plugin died %d times, %d of them for a task with a batch token; %d users lost by Vault\n%s",
		m.driver, m.deathsInAll(), m.deaths[batchToken], m.lost, table.String())
}

func (m *crashMatrix) deathsInAll() (n int) {
	for _, of := range m.deaths {
		n += of
	}
	return n
}
