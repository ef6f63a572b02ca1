package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// Writing a static secret restarts, in place, whoever has it as env or as files, on both drivers and
// both versions of KV; a task with change_mode noop runs on with new files (C5, C8). Writing the same
// again does nothing (C7).
func TestStaticChange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version    int
		env, files string // which driver has the secret as what
	}{
		{2, "docker", "raw_exec"},
		{1, "raw_exec", "docker"},
	} {
		t.Run(fmt.Sprintf("kv%d", c.version), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			s := l.newKV(c.version, fmt.Sprintf("static-kv%d", c.version))
			s.paint("green")

			block := func(delivery string) string {
				return fmt.Sprintf(`secret "app" {
					path  = %q
					splay = "0s"
					%s
				}`, s.path(), delivery)
			}
			show := []string{"/bin/sh", "-c", "exec testapp sighup $NOMAD_SECRETS_DIR/app/colour"}
			envJob := simpleJob{id: s.name + "-env", driver: c.env, role: s.name,
				run: []string{"testapp", "env", "COLOUR"}, config: block(`env = { COLOUR = "colour" }`)}
			filesJob := simpleJob{id: s.name + "-files", driver: c.files, role: s.name,
				run: show, config: block("files = true")}
			quietJob := simpleJob{id: s.name + "-noop", driver: c.env, role: s.name,
				run: show, config: block("files = true\nchange_mode = \"noop\"")}
			allocs := l.runAll(envJob, filesJob, quietJob)
			env, files, quiet := allocs[0], allocs[1], allocs[2]

			shows := func(colour string, n int) {
				t.Helper()
				want := strconv.Quote(colour)
				require.Equal(t, "COLOUR="+want, l.lines(env, "app", "env ", n)[n-1])
				require.True(t, strings.HasSuffix(l.lines(files, "app", "file ", n)[n-1], " "+want), "files of start %d", n)
				l.until("the files of "+quietJob.id+" to change", func() error { return fileIs(quiet, "app/colour", colour) })
			}
			shows("green", 1)
			process := processOf(l, quiet, quietJob.driver)
			before := processOf(l, env, envJob.driver)

			s.paint("blue")
			shows("blue", 2)
			l.event(env, `secret "app" changed; task restarted in place`)
			l.event(files, `secret "app" changed; task restarted in place`)
			l.event(quiet, `secret "app" changed; files updated`)
			require.NotEqual(t, before, processOf(l, env, envJob.driver))

			mark, written := l.now()
			s.paint("blue")
			s.settled(mark, written, envJob.id, quietJob.id)
			s.settled(mark, written, filesJob.id)

			// Had the same value done something, it would have come before this.
			s.paint("red")
			shows("red", 3)
			l.startedTimes(env, 3)
			l.startedTimes(files, 3)
			l.startedTimes(quiet, 1)
			require.Equal(t, process, processOf(l, quiet, quietJob.driver), "the task with noop has another process")
			require.NoError(t, quiet.Signal(l.ctx, "app", "SIGHUP"))
			require.True(t, strings.HasSuffix(l.lines(quiet, "app", "changed ", 1)[0], ` "red"`), "what the task with noop reads")
		})
	}
}

// A group's allocations act one after another, a stagger apart, in the order of their indexes: when
// one stops, the one before it is up again.
func TestStaticChangeOfAGroup(t *testing.T) {
	t.Parallel()
	const count, stagger = 3, 4 * time.Second
	l := newLab(t)
	s := l.newKV(2, "static-group")
	s.paint("green")
	job := l.submit(simpleJob{id: s.name, driver: "raw_exec", role: s.name, count: count,
		run: []string{"/bin/sh", "-c", `trap 'echo "stop $(date +%s%N)"; exit' INT TERM
			echo "start $(date +%s%N) $COLOUR"
			sleep 1000 & wait`},
		config: fmt.Sprintf(`secret "app" {
			path    = %q
			env     = { COLOUR = "colour" }
			splay   = "0s"
			stagger = %q
		}`, s.path(), stagger)}.hcl())
	allocs, err := job.AllRunning(l.ctx, count)
	require.NoError(t, err)
	byIndex := make([]*harness.Alloc, count)
	for _, alloc := range allocs {
		info, err := alloc.Info(l.ctx)
		require.NoError(t, err)
		index, err := strconv.Atoi(strings.TrimSuffix(info.Name[strings.LastIndexByte(info.Name, '[')+1:], "]"))
		require.NoError(t, err)
		byIndex[index] = alloc
		l.lines(alloc, "app", "start ", 1)
	}

	s.paint("blue")
	var up, down [count]time.Time
	for i, alloc := range byIndex {
		start, colour, _ := strings.Cut(l.lines(alloc, "app", "start ", 2)[1], " ")
		require.Equal(t, "blue", colour, "allocation %d", i)
		up[i], down[i] = nanoseconds(t, start), nanoseconds(t, l.lines(alloc, "app", "stop ", 1)[0])
	}
	for i := range count - 1 {
		require.True(t, up[i].Before(down[i+1]), "allocation %d stopped at %v, %d was up at %v", i+1, down[i+1], i, up[i])
		// The first one gathers changes for a second (C7); another half is for the machine.
		require.Greater(t, down[i+1].Sub(down[i]), stagger-1500*time.Millisecond, "between allocations %d and %d", i, i+1)
	}
}

// T tasks with S static secrets cost S requests an interval, and one a task when there is news (C5).
func TestPollsAreShared(t *testing.T) {
	t.Parallel()
	const tasks, polls = 5, 6
	l := newLab(t)
	first, second := l.newKV(2, "polls-a"), l.newKV(1, "polls-b")
	l.allow("polls", first.apiPath(), second.apiPath())
	first.paint("green")
	second.put(map[string]any{"shape": "round"})
	const job = "polls"
	group := l.submit(simpleJob{id: job, driver: "raw_exec", role: "polls", count: tasks,
		run: []string{"testapp", "env", "COLOUR", "SHAPE"},
		config: fmt.Sprintf(`
			splay   = "0s"
			stagger = "0s"
			secret "first" {
				path = %q
				env  = { COLOUR = "colour" }
			}
			secret "second" {
				path = %q
				env  = { SHAPE = "shape" }
			}`, first.path(), second.path())}.hcl())
	allocs, err := group.AllRunning(l.ctx, tasks)
	require.NoError(t, err)

	mark, _ := l.now()
	for _, s := range []*kvSecret{first, second} {
		var reads []harness.Request
		l.until("polls of "+s.apiPath(), func() error {
			if reads = s.reads(mark, job); len(reads) < polls {
				return fmt.Errorf("%d of %d", len(reads), polls)
			}
			return nil
		})
		// Intervals only ever stretch. One poll may have been under way, or slow, at either end.
		span := reads[polls-1].Time.Sub(reads[0].Time)
		require.GreaterOrEqual(t, span, (polls-2)*pollInterval, "%d polls of %s for %d tasks", polls, s.apiPath(), tasks)
	}

	mark, _ = l.now()
	first.paint("blue")
	for _, alloc := range allocs {
		require.Equal(t, `"blue"`, l.lines(alloc, "app", "env COLOUR=", 2)[1])
	}
	readers := map[string]bool{}
	for _, r := range first.reads(mark, job) {
		readers[r.Accessor] = true
	}
	require.Len(t, readers, tasks, "each task reads with its own identity")
}

// A task that has lost its right to a secret runs on with what it has, and says so; it never gets the
// copy of another that still has the right (C5). With the right back, it follows again.
func TestRightToASecretIsLost(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.newKV(2, "rights")
	s.paint("green")
	l.allow("rights-lost", s.apiPath())
	job := func(id, role string) simpleJob {
		return simpleJob{id: id, driver: "raw_exec", role: role, run: []string{"testapp", "env", "COLOUR"},
			config: fmt.Sprintf(`secret "app" {
				path  = %q
				env   = { COLOUR = "colour" }
				files = true
				splay = "0s"
			}`, s.path())}
	}
	allocs := l.runAll(job("rights-kept", s.name), job("rights-lost", "rights-lost"))
	kept, lost := allocs[0], allocs[1]
	l.lines(lost, "app", "env COLOUR=", 1)

	l.setPolicy("rights-lost")
	s.paint("blue")
	require.Equal(t, `"blue"`, l.lines(kept, "app", "env COLOUR=", 2)[1])
	event := l.event(lost, "not rotated")
	require.Contains(t, event, `secret "app"`)
	require.Contains(t, event, "permission denied")

	mark, written := l.now()
	s.paint("red")
	require.Equal(t, `"red"`, l.lines(kept, "app", "env COLOUR=", 3)[2])
	s.settled(mark, written, "rights-kept", "rights-lost")
	l.startedTimes(lost, 1)
	require.NoError(t, fileIs(lost, "app/colour", "green"))

	l.setPolicy("rights-lost", s.apiPath())
	s.paint("white")
	require.Equal(t, `"white"`, l.lines(lost, "app", "env COLOUR=", 2)[1])
	l.startedTimes(lost, 2)
}

// fileIs says whether a file in the task "app"'s secrets directory has this content.
func fileIs(alloc *harness.Alloc, path, want string) error {
	content, err := os.ReadFile(filepath.Join(alloc.SecretsDir("app"), path))
	if err != nil {
		return err
	}
	if string(content) != want {
		return fmt.Errorf("file %s is %.40q, not %.40q", path, content, want)
	}
	return nil
}

// processOf tells the process of the task "app" from any other that it had or will have.
func processOf(l *lab, alloc *harness.Alloc, driver string) string {
	l.t.Helper()
	if driver == "docker" {
		c, err := alloc.Container(l.ctx, "app")
		require.NoError(l.t, err)
		require.True(l.t, c.State.Running, "container of %s", alloc.Job.ID)
		return c.ID + " " + c.State.StartedAt
	}
	return fmt.Sprint(pidOf(l, alloc, driver))
}

// pidOf is the process of the task "app", as the host sees it.
func pidOf(l *lab, alloc *harness.Alloc, driver string) int {
	l.t.Helper()
	if driver == "docker" {
		c, err := alloc.Container(l.ctx, "app")
		require.NoError(l.t, err)
		return c.State.Pid
	}
	starts := l.lines(alloc, "app", "start pid=", 1)
	digits, _, _ := strings.Cut(starts[len(starts)-1], " ")
	pid, err := strconv.Atoi(digits)
	require.NoError(l.t, err)
	_, err = os.Stat(fmt.Sprintf("/proc/%d", pid))
	require.NoError(l.t, err, "process of %s", alloc.Job.ID)
	return pid
}

func nanoseconds(t *testing.T, text string) time.Time {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err)
	return time.Unix(0, n)
}
