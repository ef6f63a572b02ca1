package live

import (
	"fmt"
	"math/rand/v2"
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

// seen waits until both tasks have read a value.
func (n *node) seen(value string, within time.Duration) {
	n.t.Helper()
	for _, task := range drivers {
		n.until(task, "value "+value, within, func(s stats) bool { return s.Seen[value] != 0 })
	}
}

// Neither the plugins' end nor the agent's fails a read, and what is written is seen after it.
func TestLiveDirOutlivesPluginAndAgent(t *testing.T) {
	put(t, "outlives", "user", "zero")
	n := newNode(t, harness.AgentOptions{Name: "outlives"})
	n.run("outlives", liveOnly("outlives", "50"))
	server := n.servers()
	pids := map[string]int{}
	for _, task := range drivers {
		pids[task] = n.pid(task)
	}
	for i := range 10 {
		v := fmt.Sprint("change ", i)
		put(t, "outlives", "user", v)
		wrote := time.Now()
		for _, task := range drivers {
			s := n.until(task, "the change", 5*time.Second, func(s stats) bool { return s.Seen[v] != 0 })
			must.Less(t, 1500*time.Millisecond, time.UnixMilli(s.Seen[v]).Sub(wrote), must.Sprint(task, i))
		}
	}
	for i := range 4 {
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond) // a random moment
		if i == 3 {
			n.agent.Kill()
			n.killPlugins()
			must.NoError(t, n.agent.Start(t.Context()))
		} else {
			n.killPlugins()
		}
		n.pluginsAreBack()
		v := fmt.Sprint("value ", i)
		put(t, "outlives", "user", v)
		n.seen(v, 20*time.Second)
	}
	for _, task := range drivers {
		s, err := n.stats(task)
		must.NoError(t, err)
		must.Zero(t, s.Errors, must.Sprint(task, s.FirstError))
		must.Eq(t, pids[task], n.pid(task))
	}
	must.Eq(t, server, n.servers())

	// At the very end, too, a plugin's end leaves nothing.
	n.killPlugins()
	must.NoError(t, n.job.Stop(t.Context()))
	n.nothingLeft(90 * time.Second)
}

// A file server that is killed, or hangs, is replaced, and opens by path heal in the same container and process.
func TestLiveDirHeals(t *testing.T) {
	put(t, "heals", "user", "zero")
	n := newNode(t, harness.AgentOptions{Name: "heals"})
	n.run("heals", liveOnly("heals", "50"))
	pids := map[string]int{}
	for _, task := range drivers {
		pids[task] = n.pid(task)
	}
	slowest := time.Duration(0)
	for i := range 10 {
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
	must.SliceEmpty(t, blocked())
}

// With the server away the last value is served for live_stale, and then none; when it is back, what is current.
func TestLiveDirWhileVaultIsAway(t *testing.T) {
	vault, err := lab.NewVault(t.Context(), "vault-away")
	must.NoError(t, err)
	must.NoError(t, vault.EnableKV2(t.Context(), "secret"))
	write := func(v string) {
		must.NoError(t, vault.PutKV2(t.Context(), "secret", "away", map[string]any{"user": v}))
	}
	write("before")
	n := newNode(t, harness.AgentOptions{Name: "away", Vault: vault, AuthPath: "jwt-nomad"})
	n.run("away", liveOnly("away", "50"))
	vault.Stop()
	away := time.Now()
	for _, task := range drivers {
		s := n.until(task, "an error", 20*time.Second, func(s stats) bool { return s.Errors > 0 })
		must.StrContains(t, s.FirstError, "input/output error")
		must.Between(t, 6*time.Second, time.UnixMilli(s.LastFailed).Sub(away), 12*time.Second, must.Sprint(task))
		must.Less(t, 250*time.Millisecond, s.Slowest)
	}
	must.NoError(t, vault.Start(t.Context()))
	write("after")
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
