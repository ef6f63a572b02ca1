package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// fairLab is an agent on which one tenant behaves badly and others are looked at.
type fairLab struct {
	*lab.OutageLab
	driver string
}

func newFairLab(t *testing.T, name, driver string, options map[string]any) *fairLab {
	t.Helper()
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{Name: name, Placement: placement, Secrets: options})
	if agent != nil {
		t.Cleanup(func() { require.NoError(t, agent.Close()) })
	}
	require.NoError(t, err)
	return &fairLab{newOutageLab(t, agent, shared.Vault, 10*time.Minute), driver}
}

// secretsOf are so many secret blocks of one path, with one field as a file each.
func secretsOf(n int, path, field, more string) string {
	var blocks strings.Builder
	for i := range n {
		fmt.Fprintf(&blocks, "secret \"s%d\" {\n path = %q\n change_mode = \"noop\"\n %s\n file \"s%d\" {\n field = %q\n}\n}\n", i, path, more, i, field)
	}
	return blocks.String()
}

const smallTask = "resources {\n cpu = 20\n memory = 32\n}"

// startTook runs a job that reads one KV secret, and says how long Nomad took from the task's first event to
// its start. The job is stopped.
func (l *fairLab) startTook(id string) time.Duration {
	l.T.Helper()
	image := ""
	if l.driver == "docker" {
		image = "network_mode = \"none\""
	}
	job := lab.Job{ID: id, Driver: l.driver, Role: l.agentName() + "-kv", Run: []string{"testapp", "sleep"}, Task: smallTask,
		Config: image + "\nsecret \"app\" {\n path = \"secret/" + l.agentName() + "-kv\"\n files = true\n}"}
	alloc := l.Run(job.HCL())
	state, err := alloc.State(l.Ctx, "app")
	require.NoError(l.T, err)
	require.NotEmpty(l.T, state.Events)
	started := slices.IndexFunc(state.Events, func(e *api.TaskEvent) bool { return e.Type == api.TaskStarted })
	require.GreaterOrEqual(l.T, started, 0)
	require.NoError(l.T, alloc.Job.Stop(l.Ctx))
	return time.Duration(state.Events[started].Time - state.Events[0].Time)
}

// agentName is also in the names of what the lab has on the shared Vault.
func (l *fairLab) agentName() string { return strings.TrimPrefix(l.Agent.AuthPath, "jwt-") }

// prepareFair sets up what all tasks of the lab may read.
func (l *fairLab) prepareFair(more ...string) {
	l.T.Helper()
	l.PutColour(l.agentName()+"-kv", "green")
	l.AllowLeased(l.agentName()+"-kv", append(more, "secret/data/"+l.agentName()+"-kv")...)
}

// revokedInTime stops a task's job and shows that its leases go within 5 s of its end (E1).
func (l *fairLab) revokedInTime(task *lab.OutageTask) {
	l.T.Helper()
	require.NoError(l.T, task.Alloc.Job.Stop(l.Ctx))
	l.Soon("the leases of "+task.Job.Name+" to be gone", 5*time.Second, func(ctx context.Context) error {
		leases, err := l.Server.Leases(ctx, "database/creds/"+task.Job.Name)
		if err == nil && len(leases) > 0 {
			err = fmt.Errorf("there are %v", leases)
		}
		return err
	})
}

// crowd is several jobs that start at once, each with so many secrets of one path.
type crowd struct{ jobs, count, each int }

// submitCrowd submits a crowd's jobs. Their tasks sleep as soon as they have their secrets.
func (l *fairLab) submitCrowd(c crowd, id, path, field string) (jobs []*harness.Job) {
	l.T.Helper()
	for i := range c.jobs {
		jobs = append(jobs, l.Submit(lab.Job{ID: fmt.Sprintf("%s-%d", id, i), Driver: "raw_exec", Role: l.agentName() + "-kv",
			Run: []string{"testapp", "sleep"}, Count: c.count, Task: smallTask, Config: secretsOf(c.each, path, field, "")}.HCL()))
	}
	return jobs
}

// longestStart is what the longest of five starts took, one after the other.
func (l *fairLab) longestStart(id string) (longest time.Duration) {
	l.T.Helper()
	for i := range 5 {
		longest = max(longest, l.startTook(fmt.Sprintf("%s-%d", id, i)))
	}
	return longest
}

// C11, E1: jobs whose database accepts and never answers, as many secrets of one job and as sixteen ordinary
// jobs. A neighbour's start takes no 2 s longer than beside as many whose secrets are answered, for those need the
// machine as well; its lease of 30 s lives, its changes are seen, and what ends is revoked within 5 s. How long a start waits
// for the others' requests alone is looked at to the millisecond in TestDeadDatabaseOfOthers.
func TestDeadDatabaseStarvesNobody(t *testing.T) {
	for _, driver := range []string{"raw_exec", "docker"} {
		t.Run(driver, func(t *testing.T) {
			name := "fair-" + strings.ReplaceAll(driver, "_", "")
			db, err := harness.NewSilentDB()
			require.NoError(t, err)
			t.Cleanup(db.Close)
			l := newFairLab(t, name, driver, map[string]any{"start_timeout": "60s"})
			mount := l.agentName() + "-dead"
			require.NoError(t, l.Server.EnableSilentDB(l.Ctx, mount, db))
			l.prepareFair(mount + "/creds/app")

			crowds := []crowd{{1, 2, 40}, {16, 1, 1}}
			var answered []time.Duration
			for _, c := range crowds {
				id := fmt.Sprintf("%s-%d-living", name, c.jobs)
				living := l.submitCrowd(c, id, "secret/"+l.agentName()+"-kv", "colour")
				answered = append(answered, l.longestStart(id+"-beside"))
				for _, job := range living {
					_, err := job.AllRunning(l.Ctx, c.count)
					require.NoError(t, err)
					require.NoError(t, job.Stop(l.Ctx))
				}
			}
			neighbour := l.Start(l.Agent.AuthPath, lab.OutageJob{Name: name, Driver: driver, Count: 1, TTL: 30 * time.Second})
			var leaving []*lab.OutageTask
			for i := range 2 {
				leaving = append(leaving, l.Start(l.Agent.AuthPath, lab.OutageJob{Name: fmt.Sprintf("%s-end%d", name, i), Driver: driver, Count: 1, TTL: time.Hour})[0])
			}
			for round, c := range crowds {
				id := fmt.Sprintf("%s-%d-dead", name, c.jobs)
				dead := l.submitCrowd(c, id, mount+"/creds/app", "password")
				l.Until("the dead database to be asked", func() error {
					if !db.Asked() {
						return fmt.Errorf("nobody has")
					}
					return nil
				})
				since, renewed := time.Now(), l.Mark()
				longest := l.longestStart(id + "-beside")
				t.Logf("beside %d jobs a start took %v at most, and %v with a dead database", c.jobs, answered[round], longest)
				require.Less(t, longest, answered[round]+2*time.Second)
				l.revokedInTime(leaving[round])
				colour := fmt.Sprint("blue", round)
				l.PutColour(name, colour)
				l.Soon("the change to be seen", 10*time.Second+3*time.Second, func(context.Context) error {
					return lab.FileIs(neighbour[0].Alloc, "kv/colour", colour)
				})
				l.Until("two renewals, while they hang", func() error {
					answers, err := l.Server.Requests(renewed, "sys/leases/renew")
					n := len(lab.OfJob(answers, name))
					if err == nil && n < 2 {
						err = fmt.Errorf("%d", n)
					}
					return err
				})
				l.Undisturbed(neighbour)
				for _, job := range dead {
					allocs, err := job.Allocs(l.Ctx)
					require.NoError(t, err)
					require.Len(t, allocs, c.count)
					for _, alloc := range allocs {
						state, err := alloc.State(l.Ctx, "app")
						require.NoError(t, err)
						require.Zero(t, state.StartedAt, "its database answers")
					}
				}
				t.Logf("all that took %v", time.Since(since).Round(time.Second))
			}
		})
	}
}

// C11: certificates of a second are refused at the start, by name; and with hundreds of the shortest that may be,
// at a rate too low for them, a neighbour's lease lives, its changes are seen, and the log says it to the operator once.
func TestShortCertificatesStarveNobody(t *testing.T) {
	l := newFairLab(t, "fair-certs", "raw_exec", map[string]any{"request_rate": 4})
	require.NoError(t, l.Server.EnablePKI(l.Ctx, "fair-pki", "web"))
	require.NoError(t, l.Server.Policy(l.Ctx, "fair-pki", `path "fair-pki/issue/web" { capabilities = ["update"] }`))
	require.NoError(t, l.Server.WorkloadRole(l.Ctx, l.Agent.AuthPath, "fair-pki", harness.WorkloadRole{Policies: []string{"fair-pki"}, TTL: time.Hour}))
	neighbour := l.Start(l.Agent.AuthPath, lab.OutageJob{Name: "fair-neighbour", Driver: "raw_exec", Count: 1, TTL: 30 * time.Second})

	certificates := func(id, ttl string) lab.Job {
		return lab.Job{ID: id, Driver: "raw_exec", Role: "fair-pki", Run: []string{"testapp", "sleep"}, Count: 3, Task: smallTask,
			Config: secretsOf(80, "fair-pki/issue/web", "serial_number", `params = { common_name = "web.example.com", ttl = "`+ttl+`" }`)}
	}
	failed, err := l.Submit(certificates("fair-second", "1s").HCL()).Failed(l.Ctx)
	require.NoError(t, err)
	event := l.Event(failed, "and 1m0s is the least for a certificate")
	require.Contains(t, event, `": fair-pki/issue/web: its lifetime is`)
	require.Contains(t, event, "ask for a longer ttl in the secret's params")

	since := l.Mark()
	_, err = l.Submit(certificates("fair-minute", "60s").HCL()).AllRunning(l.Ctx, 3)
	require.NoError(t, err)
	began := time.Now()
	l.Until("the operator to be told", func() error { return toldBehind(l.Agent, 1) })
	for round := range 3 {
		colour := fmt.Sprint("blue", round)
		l.PutColour("fair-neighbour", colour)
		l.Soon("the change to be seen", 30*time.Second, func(context.Context) error {
			return lab.FileIs(neighbour[0].Alloc, "kv/colour", colour)
		})
	}
	l.Until("a neighbour's renewals for more than two minutes", func() error {
		answers, err := l.Server.Requests(since, "sys/leases/renew")
		if n := len(lab.OfJob(answers, "fair-neighbour")); err == nil && (n < 5 || time.Since(began) < 2*time.Minute) {
			err = fmt.Errorf("%d", n)
		}
		return err
	})
	l.Undisturbed(neighbour)
	l.OneLeaseEach(neighbour[0].Job)
	require.NoError(t, toldBehind(l.Agent, 1))
	issued, err := l.Server.Requests(since, "fair-pki/issue/web")
	require.NoError(t, err)
	most := 240 * (1 + int(time.Since(began)/(30*time.Second)))
	require.Greater(t, len(issued), 240, "none was issued anew")
	require.LessOrEqual(t, len(issued), most)
}

// toldBehind: the plugin's log says so many times that requests run late, and which job asks for most.
func toldBehind(agent *harness.Agent, times int) error {
	content, err := os.ReadFile(agent.LogPath)
	if err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(string(content)) {
		if !strings.Contains(line, "wait for their turn") {
			continue
		}
		n++
		if !strings.Contains(line, "fair-minute") || !strings.Contains(line, "WARN") {
			return fmt.Errorf("it does not say who asks for most: %s", line)
		}
	}
	if n != times {
		return fmt.Errorf("told %d times", n)
	}
	return nil
}
