package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
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
			s := l.NewKV(c.version, fmt.Sprintf("static-kv%d", c.version))
			s.PutColour("green")

			block := func(delivery string) string {
				return fmt.Sprintf(`secret "app" {
					path  = %q
					splay = "0s"
					%s
				}`, s.Path(), delivery)
			}
			show := []string{"/bin/sh", "-c", "exec testapp sighup $NOMAD_SECRETS_DIR/app/colour"}
			envJob := lab.Job{ID: s.Name + "-env", Driver: c.env, Role: s.Name,
				Run: []string{"testapp", "env", "COLOUR"}, Config: block(`env = { COLOUR = "colour" }`)}
			filesJob := lab.Job{ID: s.Name + "-files", Driver: c.files, Role: s.Name,
				Run: show, Config: block("files = true")}
			noopJob := lab.Job{ID: s.Name + "-noop", Driver: c.env, Role: s.Name,
				Run: show, Config: block("files = true\nchange_mode = \"noop\"")}
			allocs := l.RunAll(envJob, filesJob, noopJob)
			env, files, noop := allocs[0], allocs[1], allocs[2]

			shows := func(colour string, n int) {
				t.Helper()
				want := strconv.Quote(colour)
				require.Equal(t, "COLOUR="+want, l.Lines(env, "app", "env ", n)[n-1])
				require.True(t, strings.HasSuffix(l.Lines(files, "app", "file ", n)[n-1], " "+want), "files of start %d", n)
				l.Until("the files of "+noopJob.ID+" to change", func() error { return lab.FileIs(noop, "app/colour", colour) })
			}
			shows("green", 1)
			process := processOf(l, noop, noopJob.Driver)
			before := processOf(l, env, envJob.Driver)

			s.PutColour("blue")
			shows("blue", 2)
			l.Event(env, `secret "app" changed; task restarted in place`)
			l.Event(files, `secret "app" changed; task restarted in place`)
			l.Event(noop, `secret "app" changed; files updated`)
			require.NotEqual(t, before, processOf(l, env, envJob.Driver))

			mark, written := l.Now()
			s.PutColour("blue")
			s.AwaitPolls(mark, written, envJob.ID, noopJob.ID)
			s.AwaitPolls(mark, written, filesJob.ID)

			// Had the same value done something, it would have come before this.
			s.PutColour("red")
			shows("red", 3)
			l.StartedTimes(env, 3)
			l.StartedTimes(files, 3)
			l.StartedTimes(noop, 1)
			require.Equal(t, process, processOf(l, noop, noopJob.Driver), "the task with noop has another process")
			require.NoError(t, noop.Signal(l.Ctx, "app", "SIGHUP"))
			require.True(t, strings.HasSuffix(l.Lines(noop, "app", "changed ", 1)[0], ` "red"`), "what the task with noop reads")
		})
	}
}

// A group's allocations act one after another, a stagger apart, in the order of their indexes: when
// one stops, the one before it is up again.
func TestStaticChangeOfAGroup(t *testing.T) {
	t.Parallel()
	const count, stagger = 3, 4 * time.Second
	l := newLab(t)
	s := l.NewKV(2, "static-group")
	s.PutColour("green")
	job := l.Submit(lab.Job{ID: s.Name, Driver: "raw_exec", Role: s.Name, Count: count,
		Run: []string{"/bin/sh", "-c", `trap 'echo "stop $(date +%s%N)"; exit' INT TERM
			echo "start $(date +%s%N) $COLOUR"
			sleep 1000 & wait`},
		Config: fmt.Sprintf(`secret "app" {
			path    = %q
			env     = { COLOUR = "colour" }
			splay   = "0s"
			stagger = %q
		}`, s.Path(), stagger)}.HCL())
	allocs, err := job.AllRunning(l.Ctx, count)
	require.NoError(t, err)
	byIndex := make([]*harness.Alloc, count)
	for _, alloc := range allocs {
		info, err := alloc.Info(l.Ctx)
		require.NoError(t, err)
		index, err := strconv.Atoi(strings.TrimSuffix(info.Name[strings.LastIndexByte(info.Name, '[')+1:], "]"))
		require.NoError(t, err)
		byIndex[index] = alloc
		l.Lines(alloc, "app", "start ", 1)
	}

	s.PutColour("blue")
	var up, down [count]time.Time
	for i, alloc := range byIndex {
		start, colour, _ := strings.Cut(l.Lines(alloc, "app", "start ", 2)[1], " ")
		require.Equal(t, "blue", colour, "allocation %d", i)
		up[i], down[i] = lab.Nanoseconds(t, start), lab.Nanoseconds(t, l.Lines(alloc, "app", "stop ", 1)[0])
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
	first, second := l.NewKV(2, "polls-a"), l.NewKV(1, "polls-b")
	l.Allow("polls", first.APIPath(), second.APIPath())
	first.PutColour("green")
	second.Put(map[string]any{"shape": "round"})
	const job = "polls"
	group := l.Submit(lab.Job{ID: job, Driver: "raw_exec", Role: "polls", Count: tasks,
		Run: []string{"testapp", "env", "COLOUR", "SHAPE"},
		Config: fmt.Sprintf(`
			splay   = "0s"
			stagger = "0s"
			secret "first" {
				path = %q
				env  = { COLOUR = "colour" }
			}
			secret "second" {
				path = %q
				env  = { SHAPE = "shape" }
			}`, first.Path(), second.Path())}.HCL())
	allocs, err := group.AllRunning(l.Ctx, tasks)
	require.NoError(t, err)

	mark, _ := l.Now()
	for _, s := range []*lab.KVSecret{first, second} {
		var reads []harness.Request
		l.Until("polls of "+s.APIPath(), func() error {
			if reads = s.Reads(mark, job); len(reads) < polls {
				return fmt.Errorf("%d of %d", len(reads), polls)
			}
			return nil
		})
		// Intervals only ever stretch. One poll may have been under way, or slow, at either end.
		span := reads[polls-1].Time.Sub(reads[0].Time)
		require.GreaterOrEqual(t, span, (polls-2)*lab.PollInterval, "%d polls of %s for %d tasks", polls, s.APIPath(), tasks)
	}

	mark, _ = l.Now()
	first.PutColour("blue")
	for _, alloc := range allocs {
		require.Equal(t, `"blue"`, l.Lines(alloc, "app", "env COLOUR=", 2)[1])
	}
	readers := map[string]bool{}
	for _, r := range first.Reads(mark, job) {
		readers[r.Accessor] = true
	}
	require.Len(t, readers, tasks, "each task reads with its own identity")
}

// A task that has lost its right to a secret runs on with what it has, and says so; it never gets the
// copy of another that still has the right (C5). With the right back, it follows again.
func TestRightToASecretIsLost(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s := l.NewKV(2, "rights")
	s.PutColour("green")
	l.Allow("rights-lost", s.APIPath())
	job := func(id, role string) lab.Job {
		return lab.Job{ID: id, Driver: "raw_exec", Role: role, Run: []string{"testapp", "env", "COLOUR"},
			Config: fmt.Sprintf(`secret "app" {
				path  = %q
				env   = { COLOUR = "colour" }
				files = true
				splay = "0s"
			}`, s.Path())}
	}
	allocs := l.RunAll(job("rights-kept", s.Name), job("rights-lost", "rights-lost"))
	kept, lost := allocs[0], allocs[1]
	l.Lines(lost, "app", "env COLOUR=", 1)

	l.SetPolicy("rights-lost")
	s.PutColour("blue")
	require.Equal(t, `"blue"`, l.Lines(kept, "app", "env COLOUR=", 2)[1])
	event := l.Event(lost, "not rotated")
	require.Contains(t, event, `secret "app"`)
	require.Contains(t, event, "permission denied")

	mark, written := l.Now()
	s.PutColour("red")
	require.Equal(t, `"red"`, l.Lines(kept, "app", "env COLOUR=", 3)[2])
	s.AwaitPolls(mark, written, "rights-kept", "rights-lost")
	l.StartedTimes(lost, 1)
	require.NoError(t, lab.FileIs(lost, "app/colour", "green"))

	l.SetPolicy("rights-lost", s.APIPath())
	s.PutColour("white")
	require.Equal(t, `"white"`, l.Lines(lost, "app", "env COLOUR=", 2)[1])
	l.StartedTimes(lost, 2)
}

// processOf tells the process of the task "app" from any other that it had or will have.
func processOf(l *lab.Lab, alloc *harness.Alloc, driver string) string {
	l.T.Helper()
	if driver == "docker" {
		c, err := alloc.Container(l.Ctx, "app")
		require.NoError(l.T, err)
		require.True(l.T, c.State.Running, "container of %s", alloc.Job.ID)
		return c.ID + " " + c.State.StartedAt
	}
	return fmt.Sprint(l.PIDOf(alloc, driver))
}
