package live

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// variableStale is the live_stale of a Nomad Variable that is shorter than a wait for its change may take.
const variableStale = 6 * time.Second

// A Nomad Variable in a live directory: a change is there within a second or so, by the wait that Nomad answers. As long as nothing
// changes it is served all the same; while Nomad's servers are away for live_stale, and then no more.
func TestLiveDirOfAVariable(t *testing.T) {
	n := newNode(t, harness.AgentOptions{Name: "v"}) // short, for the path of a socket
	write := func(v string) {
		_, _, err := n.agent.Client().Variables().Create(&api.Variable{Path: "nomad/jobs/variable", Items: api.VariableItems{"user": v}}, (&api.WriteOptions{}).WithContext(t.Context()))
		must.NoError(t, err)
	}
	write("first")
	n.run("variable", func(string) liveTask {
		return liveTask{args: []string{"rate", "50", "OUT", "DIR/user"}, variables: true, secrets: fmt.Sprintf(`
        secret "app" {
          provider   = "nomad"
          path       = "nomad/jobs/variable"
          live_dir   = "LIVE"
          live_stale = %q
        }`, variableStale)}
	})
	pids := map[string]int{}
	for _, task := range drivers {
		pids[task] = n.pid(task)
		n.until(task, "reads for twice as long as live_stale", 4*variableStale, func(s stats) bool { return s.Reads > 50*int(2*variableStale/time.Second) })
	}
	for i := range 10 {
		v := fmt.Sprint("change ", i)
		write(v)
		wrote := time.Now()
		for _, task := range drivers {
			s := n.until(task, v, 5*time.Second, func(s stats) bool { return s.Seen[v] != 0 })
			must.Less(t, 1500*time.Millisecond, time.UnixMilli(s.Seen[v]).Sub(wrote), must.Sprint(task, i))
		}
	}
	for _, task := range drivers {
		s, err := n.stats(task)
		must.NoError(t, err)
		must.Zero(t, s.Errors, must.Sprint(task, s.FirstError))
	}

	n.agent.StopServer()
	away := time.Now()
	for _, task := range drivers {
		s := n.until(task, "an error", 4*variableStale, func(s stats) bool { return s.Errors > 0 })
		must.StrContains(t, s.FirstError, "input/output error")
		must.Between(t, variableStale/3, time.UnixMilli(s.LastFailed).Sub(away), 2*variableStale, must.Sprint(task))
		must.Less(t, 250*time.Millisecond, s.Slowest)
	}
	must.NoError(t, n.agent.StartServer(t.Context()))
	write("after")
	back := time.Now()
	for _, task := range drivers {
		s := n.until(task, "what is current", 15*time.Second, func(s stats) bool { return s.Seen["after"] != 0 })
		t.Logf("%s reads again %v after the servers were back", task, time.UnixMilli(s.Seen["after"]).Sub(back))
		must.Eq(t, pids[task], n.pid(task), must.Sprint(task, "was restarted"))
		restarts, err := n.alloc.Restarts(t.Context(), task)
		must.NoError(t, err)
		must.Zero(t, restarts)
	}
	must.NoError(t, n.job.Stop(t.Context()))
	n.nothingLeft(15 * time.Second)
}
