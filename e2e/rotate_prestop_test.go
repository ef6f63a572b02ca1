package e2e

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// What a program has of pre_stop_signal and pre_stop_wait, on both drivers. The secret is a static one: its change lets the
// program finish for as long as the job says.

// preStop is a test of one such task.
type preStop struct {
	*lab.Lab
	secret *lab.KVSecret
	alloc  *harness.Alloc
}

// eachPreStop runs a test on both drivers, with a task that runs args of testapp and has config.
func eachPreStop(t *testing.T, name, config string, args []string, test func(*testing.T, *preStop)) {
	t.Parallel()
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			p := &preStop{Lab: l, secret: l.NewKV(2, name+"-"+driver)}
			p.secret.PutColour("green")
			p.alloc = l.RunAll(lab.Job{
				ID: p.secret.Name, Driver: driver, Role: p.secret.Name,
				Run: append([]string{"testapp"}, args...),
				Config: `
secret "app" {
  path  = "` + p.secret.Path() + `"
  splay = "0s"
  env   = { COLOUR = "colour" }
}
` + config,
			})[0]
			lab.NeverTwo(t, p.alloc)
			p.Lines(p.alloc, lab.App, "start ", 1)
			test(t, p)
		})
	}
}

// started is when the task's nth process was made, by its own word.
func (p *preStop) started(n int) time.Time {
	p.T.Helper()
	line := p.Lines(p.alloc, lab.App, "start ", n)[n-1]
	_, began, ok := strings.Cut(line, "began=")
	require.True(p.T, ok, line)
	ms, err := strconv.ParseInt(strings.Fields(began)[0], 10, 64)
	require.NoError(p.T, err)
	return time.UnixMilli(ms)
}

// The program gets the signal and has the wait, in which calls go on to it; then it is restarted in place.
func TestPreStopWait(t *testing.T) {
	const wait = 15 * time.Second
	eachPreStop(t, "prestop-wait", `
pre_stop_signal = "SIGHUP"
pre_stop_wait   = "15s"`, []string{"sighup"}, func(t *testing.T, p *preStop) {
		old := lab.ProcessesOf(p.alloc, "testapp")
		require.Len(t, old, 1)
		changed := time.Now()
		p.secret.PutColour("blue")
		p.Lines(p.alloc, lab.App, "hangup", 1)
		told := time.Now()

		printed, _, err := p.alloc.Exec(p.Ctx, lab.App, "sh", "-c", "echo $COLOUR")
		require.NoError(t, err)
		require.Equal(t, "blue", strings.TrimSpace(printed))
		require.NoError(t, p.alloc.Signal(p.Ctx, lab.App, "SIGHUP"))
		p.Lines(p.alloc, lab.App, "hangup", 2)
		require.True(t, slices.Equal(old, lab.ProcessesOf(p.alloc, "testapp")), "the calls were the old process's")
		require.Less(t, time.Since(told), wait, "the calls took too long to show anything")

		began := p.started(2)
		require.GreaterOrEqual(t, began.Sub(changed), wait)
		p.Event(p.alloc, `secret "app" changed; task restarted in place`)
		p.StartedTimes(p.alloc, 2)
	})
}

// A program that ends by itself in the wait is started anew at once, and Nomad counts no exit (C8).
func TestPreStopEndsByItself(t *testing.T) {
	eachPreStop(t, "prestop-end", `
pre_stop_signal = "SIGTERM"
pre_stop_wait   = "5m"`, []string{"-linger", "2s", "sleep"}, func(t *testing.T, p *preStop) {
		p.secret.PutColour("blue")
		p.Lines(p.alloc, lab.App, "stopping", 1)
		stopping := time.Now()
		require.Less(t, p.started(2).Sub(stopping), time.Minute)
		p.Event(p.alloc, `secret "app" changed; task restarted in place`)
		p.StartedTimes(p.alloc, 2)
	})
}

// StopTask ends the wait at once, and no new process is started (C8).
func TestPreStopIsStopped(t *testing.T) {
	eachPreStop(t, "prestop-stop", `
pre_stop_signal = "SIGHUP"
pre_stop_wait   = "5m"`, []string{"sighup"}, func(t *testing.T, p *preStop) {
		p.secret.PutColour("blue")
		p.Lines(p.alloc, lab.App, "hangup", 1)
		asked := time.Now()
		require.NoError(t, p.Jobs[0].Stop(p.Ctx))
		p.NoProcess(p.alloc, lab.App)
		p.NoJournal(p.alloc)
		require.Less(t, time.Since(asked), time.Minute)
		require.Len(t, p.Lines(p.alloc, lab.App, "start ", 1), 1, "processes started")
	})
}

// Where allocations would be restarted before the one before them is up, the second one's start says so.
func TestPreStopOverlaps(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.PutColour("finishing", "green")
	l.Allow("finishing", "secret/data/finishing")
	allocs, err := l.SubmitFile("finishing", lab.Vars{"name": "prestop-overlaps", "stagger": "7s"}).AllRunning(l.Ctx, 2)
	require.NoError(t, err)
	for _, alloc := range allocs {
		info, err := alloc.Info(l.Ctx)
		require.NoError(t, err)
		const warning = `may be restarted at the same time when secret "app" changes: stagger (7s) is to be above splay + pre_stop_wait + stop_timeout (0s + 4s + 3s)`
		if strings.HasSuffix(info.Name, "[1]") {
			l.Event(alloc, warning)
			continue
		}
		events, err := alloc.Events(l.Ctx, lab.App)
		require.NoError(t, err)
		require.NotContains(t, strings.Join(events, "\n"), "at the same time")
	}
}
