package live

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// liveOnly is a task that reads a field over and over, at a rate.
func liveOnly(path, rate string) func(string) liveTask {
	return func(string) liveTask {
		return liveTask{args: []string{"rate", rate, "OUT", "DIR/user"}, secrets: fmt.Sprintf(`
        secret "app" {
          path       = "secret/%s"
          live_dir   = "LIVE"
          live_stale = "8s"
        }`, path)}
	}
}

// seen waits until all tasks have read a value.
func (n *node) seen(value string, within time.Duration) {
	n.t.Helper()
	for _, r := range n.readers() {
		r.until("value "+value, within, func(s stats) bool { return s.Seen[value] != 0 })
	}
}

// Neither the plugins' end, the agent's or the engine's, nor an upgrade fails a read, and what is written is seen after it.
func TestLiveDirOutlivesPluginAndAgent(t *testing.T) {
	put(t, "outlives", "user", "zero")
	n := theNode(t)
	each := times(1, 25) // tasks of each driver
	n.runMany("outlives", each, liveOnly("outlives", strconv.Itoa(times(50, 10))))
	server, pids := n.servers(), n.pids()
	// One poll notices a change for all tasks of a plugin; then each reads with its own rights, 20 a second (request_rate).
	within := 1500*time.Millisecond + time.Duration(each)*time.Second/20
	for i := range times(5, 10) {
		v := fmt.Sprint("change ", i)
		put(t, "outlives", "user", v)
		wrote := time.Now()
		for _, r := range n.readers() {
			s := r.until("the change", 5*time.Second, func(s stats) bool { return s.Seen[v] != 0 })
			must.Less(t, within, time.UnixMilli(s.Seen[v]).Sub(wrote), must.Sprint(r.name, i))
		}
	}
	for i, strike := range n.strikes() {
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond) // a random moment
		strike()
		n.pluginsAreBack()
		v := fmt.Sprint("value ", i)
		put(t, "outlives", "user", v)
		n.seen(v, 30*time.Second)
	}
	var all []stats
	for _, r := range n.readers() {
		s, err := r.stats()
		must.NoError(t, err)
		must.Zero(t, s.Errors, must.Sprint(r.name, s.FirstError))
		all = append(all, s)
	}
	t.Log(sum(all))
	must.Eq(t, pids, n.pids())
	must.Eq(t, server, n.servers())
	t.Logf("the file server's memory, of %d directories: %d kB", len(all), rss(t, server[0]))

	// At the very end, too, a plugin's end leaves nothing.
	n.killPlugins()
	must.NoError(t, n.job.Stop(t.Context()))
	n.nothingLeft(90 * time.Second)
}

// strikes are what ends plugins, agent and engine, in a random order.
func (n *node) strikes() (list []func()) {
	for _, strike := range []struct {
		times int
		do    func()
	}{
		{times(2, 20), n.killPlugins},
		{times(1, 20), func() {
			n.agent.Kill()
			n.killPlugins()
			must.NoError(n.t, n.agent.Start(n.t.Context()))
		}},
		{times(0, 20), func() {
			must.NoError(n.t, lab.engine.Kill(n.t.Context()))
			must.NoError(n.t, lab.engine.Start(n.t.Context()))
		}},
		{times(1, 3), n.upgrade},
	} {
		list = append(list, slices.Repeat([]func(){strike.do}, strike.times)...)
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// upgrade replaces the plugins by another program, and restarts the agent.
func (n *node) upgrade() {
	n.t.Helper()
	program, err := os.ReadFile(lab.Plugin())
	must.NoError(n.t, err)
	other := filepath.Join(n.t.TempDir(), "plugin")
	must.NoError(n.t, os.WriteFile(other, fmt.Appendf(program, "another version %d", rand.Int()), 0o755))
	for _, driver := range drivers {
		must.NoError(n.t, n.agent.InstallPlugin(other, driver))
	}
	must.NoError(n.t, n.agent.Restart(n.t.Context()))
}

// A file server that is killed, or hangs, is replaced, and opens by path heal in the same container and process.
func TestLiveDirHeals(t *testing.T) {
	put(t, "heals", "user", "zero")
	n := theNode(t)
	n.run("heals", liveOnly("heals", "50"))
	pids := map[string]int{}
	for _, task := range drivers {
		pids[task] = n.pid(task)
	}
	slowest := time.Duration(0)
	for i := range times(4, 20) {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // a random moment
		at := time.Now()
		sendTo(t, n.servers(), []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP}[i%2])
		v := fmt.Sprint("value ", i)
		put(t, "heals", "user", v)
		n.seen(v, 10*time.Second)
		for _, task := range drivers {
			s, err := n.stats(task)
			must.NoError(t, err)
			healed := time.UnixMilli(s.LastFailed).Sub(at) // what failed did so only in the time that healing may take
			slowest = max(slowest, healed)
			must.Less(t, 2*time.Second, healed, must.Sprint(task))
			must.Eq(t, pids[task], n.pid(task))
		}
	}
	t.Logf("the last failed read was at most %s after the file server's end", slowest)
	must.NoError(t, n.job.Stop(t.Context()))
	n.nothingLeft(15 * time.Second)
}

// With the server away the last value is served for live_stale, and then none; when it is back, what is current.
func TestLiveDirWhileVaultIsAway(t *testing.T) {
	put(t, "tasks-away", "user", "before")
	n := theNode(t)
	n.run("away", liveOnly("tasks-away", "50"))
	lab.Vault.Stop()
	away := time.Now()
	for _, task := range drivers {
		s := n.until(task, "an error", 20*time.Second, func(s stats) bool { return s.Errors > 0 })
		must.StrContains(t, s.FirstError, "input/output error")
		must.Between(t, 6*time.Second, time.UnixMilli(s.LastFailed).Sub(away), 12*time.Second, must.Sprint(task))
		must.Less(t, 250*time.Millisecond, s.Slowest)
	}
	must.NoError(t, lab.Vault.Start(t.Context()))
	put(t, "tasks-away", "user", "after")
	back := time.Now()
	for _, task := range drivers {
		s := n.until(task, "what is current", 10*time.Second, func(s stats) bool { return s.Seen["after"] != 0 })
		must.Less(t, 1500*time.Millisecond, time.UnixMilli(s.Seen["after"]).Sub(back), must.Sprint(task))
		restarts, err := n.alloc.Restarts(t.Context(), task)
		must.NoError(t, err)
		must.Zero(t, restarts)
	}
	must.NoError(t, n.job.Stop(t.Context()))
	n.nothingLeft(15 * time.Second)
}

// What the server makes for the task is read a hundred times and made once; what takes its place is there without a restart.
func TestLiveDirOfACertificate(t *testing.T) {
	t.Parallel()
	vault, err := lab.NewVault(t.Context(), "vault-pki")
	must.NoError(t, err)
	must.NoError(t, vault.EnablePKI(t.Context(), "pki", "web"))
	n := newNode(t, harness.AgentOptions{Name: "pki", Vault: vault, AuthPath: "jwt-nomad"})
	n.run("pki", func(string) liveTask {
		return liveTask{args: []string{"rate", "50", "OUT", "DIR/serial_number"}, secrets: `
        secret "app" {
          path     = "pki/issue/web"
          params   = { common_name = "web.example.com", ttl = "70s" }
          live_dir = "LIVE"
        }`}
	})
	certificates := func() int {
		listed, err := vault.Client().Logical().ListWithContext(t.Context(), "pki/certs")
		must.NoError(t, err)
		return len(listed.Data["keys"].([]any))
	}
	made := certificates()
	for _, task := range drivers {
		s := n.until(task, "many reads", 20*time.Second, func(s stats) bool { return s.Reads > 200 })
		must.MapLen(t, 1, s.Seen)
		must.Zero(t, s.Errors)
	}
	must.Eq(t, made, certificates())
	for _, task := range drivers {
		s := n.until(task, "the next one", 90*time.Second, func(s stats) bool { return len(s.Seen) == 2 })
		must.Zero(t, s.Errors, must.Sprint(s.FirstError))
		restarts, err := n.alloc.Restarts(t.Context(), task)
		must.NoError(t, err)
		must.Zero(t, restarts)
	}
	must.Eq(t, made+2, certificates())
	must.NoError(t, n.job.Stop(t.Context()))
	n.nothingLeft(15 * time.Second)
}
