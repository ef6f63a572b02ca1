package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// hostileMemory is what one job may make the plugin take above what it takes idle.
const hostileMemory = 200 << 20

// One job cannot use up the node (S8): each case here once took the plugin's memory to gigabytes, or its
// start far beyond start_timeout. The memory is the kernel's count of the plugin's process.
func TestOneJobCannotUseUpTheNode(t *testing.T) {
	const startTimeout = 5 * time.Second
	l := newOwnLab(t, harness.AgentOptions{
		Name: "limits", Placement: harness.InPlace, Secrets: map[string]any{"start_timeout": startTimeout.String()},
	}, 10*time.Minute)
	require.NoError(t, l.Vault.EnableKV2(l.Ctx, "limits"))
	l.AllowLeased("limits", "limits/data/*")
	put := func(name string, fields map[string]any) {
		t.Helper()
		require.NoError(t, l.Vault.PutKV2(l.Ctx, "limits", name, fields))
	}
	// megabytes are fields of one MiB each, less a little: a server of this version takes no longer text.
	megabytes := func(n int, c string) map[string]any {
		fields := map[string]any{}
		for i := range n {
			fields[fmt.Sprint("f", i)] = strings.Repeat(c, 1<<20-100)
		}
		return fields
	}
	job := func(id, config string) lab.Job {
		return lab.Job{ID: "limits-" + id, Driver: "raw_exec", Role: "limits", Run: []string{"testapp", "sleep"}, Config: config}
	}
	secret := func(name, path, more string) string {
		return fmt.Sprintf("secret %q {\n path = \"limits/%s\"\n splay = \"0s\"\n stagger = \"0s\"\n %s\n}\n", name, path, more)
	}
	repeat := func(n int, block func(i int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(block(i))
		}
		return b.String()
	}

	put("small", map[string]any{"value": "x"})
	l.RunAll(job("first", secret("a", "small", "")))
	pid, err := l.Agent.PluginPID("raw_exec")
	require.NoError(t, err)
	idle := memoryOf(t, pid, "VmRSS")
	t.Logf("idle: %d MiB", idle>>20)
	// within runs a case and looks at the most memory that the plugin took meanwhile.
	within := func(t *testing.T, run func()) {
		t.Helper()
		require.NoError(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0))
		run()
		most := memoryOf(t, pid, "VmHWM")
		t.Logf("at the most %d MiB above idle", (most-idle)>>20)
		require.Less(t, most-idle, hostileMemory)
	}
	// refused submits a job whose start must fail within start_timeout and a few seconds, for that reason.
	refused := func(t *testing.T, j lab.Job, reason string) string {
		t.Helper()
		var said string
		within(t, func() {
			failed, err := l.Submit(j.HCL()).Failed(l.Ctx)
			require.NoError(t, err)
			said = l.Event(failed, reason)
			took := startTook(t, l, failed)
			t.Logf("refused after %v", took)
			require.Less(t, took, startTimeout+10*time.Second)
			checkEvents(t, l, failed)
		})
		return said
	}

	t.Run("templates that never end", func(t *testing.T) {
		refused(t, job("endless", secret("a", "small", repeat(25, func(i int) string {
			return fmt.Sprintf("file \"f%d\" {\n template = \"{{ range 1000000000000 }}{{ end }}\"\n}\n", i)
		}))), "it runs for longer than 1s")
	})
	t.Run("templates that make much", func(t *testing.T) {
		refused(t, job("much", secret("a", "small", repeat(700, func(i int) string {
			return fmt.Sprintf("file \"f%d\" {\n template = \"{{ range 1000 }}%s{{ end }}\"\n}\n", i, strings.Repeat("x", 1000))
		}))), "the output of the task's templates is longer than 8 MiB together")
	})
	t.Run("a comparison of large fields", func(t *testing.T) {
		fields := megabytes(2, "x")
		fields["f1"] = fields["f1"].(string)[1:] + "y"
		put("compared", fields)
		refused(t, job("compared", secret("a", "compared", "file \"f\" {\n template = \"{{ if eq .f0"+strings.Repeat(" .f1", 10_000)+" }}x{{ end }}\"\n}\n")),
			"a value in it grows too large")
	})
	t.Run("many secrets on a large path", func(t *testing.T) {
		put("large", megabytes(7, "x"))
		refused(t, job("large", repeat(30, func(i int) string { return secret(fmt.Sprint("s", i), "large", "") })),
			"the task's secrets are larger than 32 MiB together")
		l.Until("the journal to be as it was", func() error {
			if size := sizeOf(t, l.Agent.StateDir); size > 1<<20 {
				return fmt.Errorf("%d bytes in state_dir", size)
			}
			return nil
		})
	})
	t.Run("a secret larger than any may be", func(t *testing.T) {
		put("larger", megabytes(12, "x"))
		refused(t, job("larger", secret("a", "larger", "")), "read limits/larger: the secret is larger than 8 MiB")
	})
	t.Run("long names of fields", func(t *testing.T) {
		fields := map[string]any{}
		for i := range 9000 {
			fields[fmt.Sprintf("name-%04d-%s", i, strings.Repeat("x", 85))] = "v"
		}
		put("names", fields)
		said := refused(t, job("names", secret("a", "names", `env = { X = "mistyped" }`)), `no field "mistyped"; there are: name-0000-xxx`)
		require.Contains(t, said, "more")
	})

	// The most that a task may have: it starts, is changed, and outlives the plugin.
	t.Run("as much as may be", func(t *testing.T) {
		put("most", megabytes(7, "a"))
		var j lab.Job
		var alloc *harness.Alloc
		within(t, func() {
			j = job("most", repeat(4, func(i int) string {
				return secret(fmt.Sprint("s", i), "most", fmt.Sprintf("change_mode = \"noop\"\nfile \"f%d\" {\n template = \"{{ trunc 1 .f0 }}\"\n}", i))
			}))
			alloc = l.RunAll(j)[0]
			require.NoError(t, lab.FileIs(alloc, "f3", "a"))
		})
		change := func(c string) {
			t.Helper()
			put("most", megabytes(7, c))
			for i := range 4 {
				l.Until("the change", func() error { return lab.FileIs(alloc, fmt.Sprint("f", i), c) })
			}
		}
		within(t, func() { change("b") })
		require.NoError(t, l.Agent.KillPlugin("raw_exec"))
		l.Until("another plugin", func() (err error) {
			was := pid
			if pid, err = l.Agent.PluginPID("raw_exec"); err == nil && pid == was {
				err = fmt.Errorf("it is still %d", pid)
			}
			return err
		})
		change("c") // it is watched
		most := memoryOf(t, pid, "VmHWM")
		t.Logf("the recovering plugin: %d MiB above idle", (most-idle)>>20)
		require.Less(t, most-idle, hostileMemory)
		l.StartedTimes(alloc, 1)
	})

	t.Run("many names in the secrets directory", func(t *testing.T) {
		put("crowded", map[string]any{"value": "first"})
		j := job("crowded", secret("a", "crowded", "change_mode = \"noop\"\nfiles = true"))
		j.Run = []string{"/bin/sh", "-c", `cd "$NOMAD_SECRETS_DIR" && seq 300000 | xargs ln -s -t . && echo "start" && exec sleep 1000`}
		alloc := l.RunAll(j)[0]
		l.Lines(alloc, "app", "start", 1)
		within(t, func() {
			for _, value := range []string{"second", "third"} {
				began := time.Now()
				put("crowded", map[string]any{"value": value})
				l.Until("the change", func() error { return lab.FileIs(alloc, "a/value", value) })
				t.Logf("published %v after it was put", time.Since(began).Round(time.Millisecond))
			}
		})
	})

	// A file system that is nearly full keeps its rest for what runs.
	t.Run("the journal's reserve", func(t *testing.T) {
		put("runs", map[string]any{"value": "first"})
		runs := l.RunAll(job("runs", secret("a", "runs", "change_mode = \"noop\"\nfiles = true")))[0]
		junk := filepath.Join(l.Agent.StateDir, "journal", "junk")
		var fs unix.Statfs_t
		require.NoError(t, unix.Statfs(filepath.Dir(junk), &fs))
		file, err := os.Create(junk)
		require.NoError(t, err)
		// All but 64 MiB, which is less than is kept for what runs.
		require.NoError(t, unix.Fallocate(int(file.Fd()), 0, 0, int64(fs.Bavail)*fs.Bsize-64<<20))
		require.NoError(t, file.Close())
		waits := job("waits", secret("a", "small", ""))
		waits.Task = "restart {\n attempts = 100\n interval = \"10m\"\n delay = \"1s\"\n mode = \"delay\"\n}"
		alloc := l.FirstAlloc(l.Submit(waits.HCL()))
		require.Contains(t, l.Event(alloc, "state_dir: "), "kept for the tasks that run; it is tried again")
		put("runs", map[string]any{"value": "second"})
		l.Until("the change", func() error { return lab.FileIs(runs, "a/value", "second") })
		require.NoError(t, os.Remove(junk))
		l.Lines(alloc, "app", "start ", 1)
	})
}

// memoryOf is a line of a process's status, in bytes.
func memoryOf(t *testing.T, pid int, name string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.SplitSeq(string(status), "\n") {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			require.NoError(t, err)
			return kib << 10
		}
	}
	require.Failf(t, "no such line", "no %s in the status of process %d", name, pid)
	return 0
}

// startTook is how long the one attempt to start an allocation's task took.
func startTook(t *testing.T, l *lab.Lab, alloc *harness.Alloc) time.Duration {
	t.Helper()
	state, err := alloc.State(l.Ctx, "app")
	require.NoError(t, err)
	var began, failed int64
	for _, e := range state.Events {
		switch e.Type {
		case api.TaskSetup:
			began = e.Time
		case api.TaskDriverFailure:
			failed = e.Time
		}
	}
	require.NotZero(t, began)
	require.NotZero(t, failed)
	return time.Duration(failed - began)
}

// checkEvents makes sure that what Nomad keeps of a task in its Raft log is short.
func checkEvents(t *testing.T, l *lab.Lab, alloc *harness.Alloc) {
	t.Helper()
	events, err := alloc.Events(l.Ctx, "app")
	require.NoError(t, err)
	for _, event := range events {
		// Nomad's own words come before it.
		require.LessOrEqual(t, len(event), 2<<10+200, event)
	}
}

// sizeOf is what the files below a directory hold.
func sizeOf(t *testing.T, dir string) (size int64) {
	t.Helper()
	_ = filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return nil // what has just gone holds nothing
	})
	return size
}
