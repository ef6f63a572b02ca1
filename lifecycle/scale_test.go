package lifecycle

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// bigNode opens so many sessions of so many leases each, of this TTL, of tasks that have identities.
func bigNode(t testing.TB, k *Keeper, v *fakeVault, taskDir string, tasks, leases int, ttl time.Duration) (all []*Session, hosts []*fakeHost) {
	c := secrets.TaskConfig{Secrets: map[string]*secrets.SecretConfig{}}
	for i := range leases {
		path := fmt.Sprintf("database/creds/role-%d", i)
		v.with(func() { v.roles[path] = fakeRole{ttl: ttl, max: 1000 * time.Hour} })
		c.Secrets[fmt.Sprintf("db%d", i)] = &secrets.SecretConfig{
			Path: path, Env: []map[string]string{{fmt.Sprintf("PASSWORD_%d", i): "password"}},
		}
	}
	for i := range tasks {
		spec, err := secrets.Compile(c) // each task has one of its own
		require.NoError(t, err)
		task := Task{Driver: "docker", AllocID: fmt.Sprintf("alloc-%d", i), Name: "web", ID: fmt.Sprint(i), Dir: taskDir}
		h := &fakeHost{}
		s, err := k.Open(t.Context(), Start{Task: task, Spec: spec, Config: c, Env: map[string]string{}}, h)
		require.NoError(t, err)
		s.Watch()
		all, hosts = append(all, s), append(hosts, h)
	}
	return all, hosts
}

// memoryInUse is what the heap and the stacks take.
func memoryInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// A plugin of a big node: the memory of a lease, with all that belongs to it, is bounded, and there are
// no more goroutines for ten leases than for one.
func TestManyLeases(t *testing.T) {
	const tasks, each = 100, 10
	v, k, dir := newBigKeeper(t, 100*time.Millisecond)
	defer k.Close()
	before, goroutines := memoryInUse(), runtime.NumGoroutine()
	all, _ := bigNode(t, k, v, dir, tasks, each, time.Hour)
	// All leases are to be checked by now, and all but a few wait for their turn.
	require.Eventually(t, func() bool { return v.called("check") > 10 }, time.Minute, 10*time.Millisecond)
	var bytes uint64
	var more int
	v.with(func() {
		v.leases, v.tokens, v.calls = nil, nil, nil // the server's own side does not count
		bytes = (memoryInUse() - before) / (tasks * each)
		more = runtime.NumGoroutine() - goroutines
	})
	t.Logf("%d leases of %d tasks: %d bytes and %.2f goroutines a lease", tasks*each, tasks, bytes, float64(more)/(tasks*each))
	require.LessOrEqual(t, bytes, uint64(8<<10))
	require.LessOrEqual(t, more, tasks+50, "one a task")
	runtime.KeepAlive(all)
}

// BenchmarkIdle is what 10,000 leases cost between renewals, with checks at the request rate: CPU time of
// the process in b.N seconds. The server is a fake in the same process.
func BenchmarkIdle(b *testing.B) {
	v, k, dir := newBigKeeper(b, time.Minute)
	defer k.Close()
	bigNode(b, k, v, dir, 1000, 10, time.Hour)
	// Checks begin, by their jitter, 12 s before the interval's end: from then on they are at the request rate.
	require.Eventually(b, func() bool { return v.called("check") > 12*20 }, 2*time.Minute, 10*time.Millisecond)
	from := cpuTime()
	began := time.Now()
	for b.Loop() {
		time.Sleep(time.Second)
	}
	b.ReportMetric(100*float64(cpuTime()-from)/float64(time.Since(began)), "%cpu")
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// newBigKeeper is a keeper in real time, at the operator's defaults but for the lease_check_interval.
func newBigKeeper(t testing.TB, check time.Duration) (*fakeVault, *Keeper, string) {
	v, taskDir := newFakeVault(), t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(taskDir, "private"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(taskDir, "private", "vault.jwt"), []byte("a.b.c"), 0o600))
	k, err := New(Config{
		Providers: map[string]Provider{"vault": v}, StateDir: newStateDir(t), JWTMount: "jwt", JWTRole: "r", JWTFile: "private/vault.jwt",
		RequestRate: 20, PollInterval: 10 * time.Second, StartTimeout: 2 * time.Minute, LeaseCheckInterval: check,
	})
	require.NoError(t, err)
	k.files = testFiles
	return v, k, taskDir
}

// C1, C6: where the request rate does not suffice for everything, it is looking that gets rarer: every
// lease is renewed while a quarter of its life is left, and nothing is fetched.
func TestRateTooLow(t *testing.T) {
	inWorld(t, func(w *world) {
		w.keeper.Close()
		// Renewals have 4 a second: one turn of eight goes to what is less urgent (C11).
		w.cfg.RequestRate, w.cfg.LeaseCheckInterval = 4.6, 5*time.Second
		w.start()
		all, hosts := bigNode(w.t, w.keeper, w.vault, w.taskDir, 50, 1, time.Minute) // 1.4 renewals and 10 checks a second
		for range 600 {
			w.sleep(time.Second)
			w.vault.with(func() {
				for id, l := range w.vault.leases {
					require.Greater(w.t, time.Until(l.until), 15*time.Second, id)
				}
			})
		}
		require.Equal(t, 50, w.vault.called("read"))
		require.Positive(t, w.vault.called("check"))
		for _, h := range hosts {
			require.Empty(t, h.applied())
		}
		for _, s := range all {
			s.End()
		}
	})
}

// C3: after an outage under 500 tasks the requests of all stay within request_rate, and are
// all made; none is lost and nothing fetched.
func TestOutageOverManyTasks(t *testing.T) {
	inWorld(t, func(w *world) {
		w.keeper.Close()
		w.cfg.RequestRate, w.cfg.LeaseCheckInterval = 20, 10*time.Minute
		w.start()
		var sent []time.Time
		w.vault.sent = func() { sent = append(sent, time.Now()) }
		all, hosts := bigNode(w.t, w.keeper, w.vault, w.taskDir, 500, 1, time.Hour)
		synctest.Wait()
		fetched := w.vault.called("read")
		w.sleep(10 * time.Minute)
		w.vault.set(errAway)
		w.sleep(30 * time.Minute)
		w.vault.set(nil)
		w.vault.with(func() { sent = nil })
		w.sleep(25 * time.Minute)
		require.Len(t, w.vault.live("database/creds/role-0"), 500)
		require.Equal(t, fetched, w.vault.called("read"))
		for _, h := range hosts {
			require.Empty(t, h.applied())
		}
		slices.SortFunc(sent, time.Time.Compare)
		for i := 20; i < len(sent); i++ {
			require.GreaterOrEqual(t, sent[i].Sub(sent[i-20]), time.Second-time.Millisecond)
		}
		require.Greater(t, len(sent), 1000)
		for _, s := range all {
			s.End()
		}
	})
}
