package live

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// status reads one line of /proc/<pid>/status.
func status(t *testing.T, pid int, key string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("no %s in the status of %d", key, pid)
	return ""
}

func TestTheFileServerHasNoPower(t *testing.T) {
	n := newNode(t)
	var logged lines
	// As an agent's lock file that its plugin inherits.
	inherited := filepath.Join(t.TempDir(), "inherited")
	fd, err := unix.Open(inherited, unix.O_CREAT|unix.O_RDWR, 0o600)
	must.NoError(t, err)
	defer unix.Close(fd)
	f := n.feeder("docker", func(c *Config) { c.Log = hclog.New(&hclog.LoggerOptions{Output: &logged}) })
	n.placed(f, Directory{Name: "a"}, "v", "the-value")
	pid := n.serverPID()

	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	must.NoError(t, err)
	must.NotEq(t, 0, len(tasks))
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		must.NoError(t, err)
		for _, set := range []string{"CapPrm:\t0000000000004000", "CapEff:\t0000000000004000", "CapInh:\t0000000000000000", "NoNewPrivs:\t1"} {
			must.StrContains(t, string(b), set)
		}
	}
	must.Eq(t, "0\t0\t0\t0", status(t, pid, "Uid"))
	sid, err := unix.Getsid(pid)
	must.NoError(t, err)
	must.Eq(t, pid, sid)
	ppid := status(t, pid, "PPid")
	must.NotEq(t, fmt.Sprint(os.Getpid()), ppid)
	oom, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	must.NoError(t, err)
	if exec.Command("sh", "-c", "echo -900 > /proc/self/oom_score_adj").Run() == nil {
		must.Eq(t, "-900\n", string(oom))
	} else { // root without CAP_SYS_RESOURCE
		eventually(t, 5*time.Second, func() error {
			if !strings.Contains(logged.String(), "(oom_score_adj)") {
				return fmt.Errorf("logged: %s", &logged)
			}
			return nil
		})
	}
	cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	must.NoError(t, err)
	for line := range strings.Lines(string(cgroup)) { // of each hierarchy; a cpuset limits nothing
		if !strings.Contains(line, ":cpuset:") {
			must.StrHasSuffix(t, ":/"+cgroupName+"\n", line)
		}
	}
	// More of a busy machine's processors than others, where the controller is there.
	for file, want := range map[string]string{"cpu.shares": cpuShares, "cpu.weight": cpuWeight} {
		one, err := filepath.Glob("/sys/fs/cgroup/" + cgroupName + "/" + file)
		must.NoError(t, err)
		many, err := filepath.Glob("/sys/fs/cgroup/*/" + cgroupName + "/" + file)
		must.NoError(t, err)
		for _, path := range append(one, many...) {
			got, err := os.ReadFile(path)
			must.NoError(t, err)
			must.Eq(t, want+"\n", string(got))
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	must.NoError(t, err)
	must.RegexMatch(t, regexp.MustCompile(`Max core file size +0 +0 `), string(limits))
	locked := status(t, pid, "VmLck")
	must.NotEq(t, "0 kB", locked)
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must.NoError(t, err)
	must.NotEq(t, 0, len(files))
	for _, file := range files {
		to, _ := os.Readlink(file)
		must.NotEq(t, inherited, to)
	}
	// Not dumpable: the files of its /proc are root's, and another user's ptrace has nothing to attach to.
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	must.NoError(t, err)
	must.StrNotContains(t, string(line), "the-value")
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	must.NoError(t, err)
	must.Eq(t, "GOTRACEBACK=none\x00", string(env))
}

func TestTheFileServerIsSmall(t *testing.T) {
	must.Less(t, 6<<20, len(program))
	n := newNode(t)
	f := n.feeder("docker", nil)
	for i := range 100 {
		n.placed(f, Directory{Name: fmt.Sprint("d", i)}, "user", "u", "password", "p")
	}
	pid := n.serverPID()
	must.Less(t, 12<<10, rss(t, pid))
	t.Logf("idle with 100 directories: %d kB, threads %s", rss(t, pid), status(t, pid, "Threads"))

	// Made-up names leave nothing behind, neither do those that are there.
	load := func(i int) {
		dir := filepath.Join(n.shared, fmt.Sprint("d", i%100))
		var st unix.Stat_t
		must.ErrorIs(t, unix.Stat(filepath.Join(dir, fmt.Sprintf("%x", i*7919)), &st), unix.ENOENT)
		if i%10 == 0 {
			must.NoError(t, wantFile(filepath.Join(dir, "user"), "u")())
		}
	}
	for i := range 50_000 {
		load(i)
	}
	after := rss(t, pid)
	for i := range 150_000 {
		load(i)
	}
	t.Logf("after 200,000 look-ups: %d kB, and before the last 150,000 %d kB", rss(t, pid), after)
	must.Less(t, 24<<10, rss(t, pid))
	must.Less(t, after+2048, rss(t, pid))
}

// rss is without the values, which here are a page a directory; in kB.
func rss(t *testing.T, pid int) int {
	var kb int
	_, err := fmt.Sscanf(status(t, pid, "VmRSS"), "%d kB", &kb)
	must.NoError(t, err)
	return kb
}

// BenchmarkStart is what the first live directory of a node adds to a task's start.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	h := home{dir}
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		unlock, err := h.lock(b.Context())
		must.NoError(b, err)
		must.NoError(b, h.start(b.Context()))
		unlock()
		took = append(took, time.Since(begin))
		c, err := dial(b.Context(), h.socket(), "bench")
		must.NoError(b, err)
		must.NoError(b, c.peer.kill())
		c.close()
	}
	must.NoError(b, h.tidy())
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/median")
}

// BenchmarkDirectory is what each further live directory adds to a task's start and to its end.
func BenchmarkDirectory(b *testing.B) {
	dir := b.TempDir()
	shared := filepath.Join(dir, "shared")
	must.NoError(b, SharedDir(shared))
	f := Open(Config{Feeder: "bench", Dir: filepath.Join(dir, "live"), Log: hclog.NewNullLogger()})
	defer f.Close()
	target := filepath.Join(shared, "a")
	must.NoError(b, os.Mkdir(target, 0o700))
	_, err := f.Declare(b.Context(), Directory{Name: "stays", Stale: time.Hour})
	must.NoError(b, err)
	var start, end time.Duration
	for b.Loop() {
		begin := time.Now()
		source, err := f.Declare(b.Context(), Directory{Name: "a", Stale: time.Hour})
		must.NoError(b, err)
		must.NoError(b, f.Set(b.Context(), "a", fields("user", "u", "password", "p"), time.Now()))
		must.NoError(b, Place(source, target))
		start += time.Since(begin)
		begin = time.Now()
		must.NoError(b, Clear(target))
		must.NoError(b, f.Withdraw(b.Context(), "a"))
		end += time.Since(begin)
	}
	b.ReportMetric(start.Seconds()*1000/float64(b.N), "ms/start")
	b.ReportMetric(end.Seconds()*1000/float64(b.N), "ms/end")
	must.NoError(b, Clear(shared))
	c, err := dial(b.Context(), f.home.socket(), "bench2")
	must.NoError(b, err)
	f.Close()
	must.NoError(b, c.peer.kill())
	c.close()
	must.NoError(b, f.home.tidy())
}

// BenchmarkRead is open, read and close of a small field, beside a file on a tmpfs.
func BenchmarkRead(b *testing.B) {
	dir := b.TempDir()
	shared := filepath.Join(dir, "shared")
	must.NoError(b, SharedDir(shared))
	f := Open(Config{Feeder: "bench", Dir: filepath.Join(dir, "live"), Log: hclog.NewNullLogger()})
	source, err := f.Declare(b.Context(), Directory{Name: "a", Stale: time.Hour})
	must.NoError(b, err)
	must.NoError(b, f.Set(b.Context(), "a", fields("v", "0123456789abcdef"), time.Now()))
	target := filepath.Join(shared, "a")
	must.NoError(b, os.Mkdir(target, 0o700))
	must.NoError(b, Place(source, target))
	must.NoError(b, os.WriteFile(filepath.Join(shared, "v"), []byte("0123456789abcdef"), 0o400))
	defer func() {
		must.NoError(b, Clear(target))
		must.NoError(b, Clear(shared))
		must.NoError(b, f.Withdraw(b.Context(), "a"))
		c, err := dial(b.Context(), f.home.socket(), "bench2")
		must.NoError(b, err)
		f.Close()
		must.NoError(b, c.peer.kill())
		c.close()
		must.NoError(b, f.home.tidy())
	}()
	for name, path := range map[string]string{"live": filepath.Join(target, "v"), "tmpfs": filepath.Join(shared, "v")} {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				if _, err := read(path); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begin))
			}
			reportReads(b, took)
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := read(path); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
	b.Run("live/changed", func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			b.StopTimer()
			must.NoError(b, f.Set(b.Context(), "a", fields("v", "0123456789abcdef"), time.Now()))
			b.StartTimer()
			begin := time.Now()
			if _, err := read(filepath.Join(target, "v")); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(begin))
		}
		reportReads(b, took)
	})
}

// reportReads reports the rate of one reader, and how slow the slower reads are.
func reportReads(b *testing.B, took []time.Duration) {
	var sum time.Duration
	for _, t := range took {
		sum += t
	}
	slices.Sort(took)
	b.ReportMetric(float64(len(took))/sum.Seconds(), "reads/s")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "µs/p99")
}
