//go:build soak

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

const (
	soakRate  = 10               // request_rate
	soakCheck = 10 * time.Second // lease_check_interval
	// soakBound is how long a process may be refused with the server there: what C6 allows, and the
	// time to gather changes, to swap, and to be slow on a busy machine.
	soakBound = soakCheck + 15*time.Second
)

// TestSoak runs 40 tasks with short leases, four of them with batch tokens, for $DURATION under random faults, of the seed $SEED: `make
// soak`. Its containers are on a Docker engine of their own, which goes away, too. Nothing may be lost (C1 to C8, C12), and at the end all is
// as if nothing had been.
func TestSoak(t *testing.T) {
	duration, seed := soakOptions(t)
	fmt.Printf("soak: DURATION=%v SEED=%d\n", duration, seed)
	vault, err := shared.NewVault(t.Context(), "vault-soak")
	require.NoError(t, err)
	proxy, err := harness.NewFaultProxy(nil, vault.Addr)
	require.NoError(t, err)
	t.Cleanup(proxy.Close)
	engine, err := shared.NewEngine(t.Context(), "engine-soak")
	if engine != nil {
		t.Cleanup(func() { require.NoError(t, engine.Close()) })
	}
	require.NoError(t, err)
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: "soak", Placement: placement, Vault: vault, LogLevel: "info",
		DockerHCL: fmt.Sprintf("endpoint = %q", engine.Host),
		Meta:      map[string]string{"engine": engine.Host, "db_socket": shared.MariaDB.Socket()},
		Secrets:   map[string]any{"address": proxy.Addr, "request_rate": soakRate, "lease_check_interval": soakCheck.String()},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	s := &soak{
		OutageLab: newOutageLab(t, agent, vault, duration+10*time.Minute),
		proxy:     proxy, agent: agent, engine: engine, random: rand.New(rand.NewPCG(seed, 0)),
	}
	for i, ttl := range []int{20, 30, 45, 60} {
		for _, of := range []struct {
			driver string
			count  int
		}{{"raw_exec", 6}, {"docker", 3}} {
			j := lab.OutageJob{
				Name: fmt.Sprintf("soak%d-%s", i, of.driver[:3]), Driver: of.driver, Count: of.count, TTL: time.Duration(ttl) * time.Second,
				Mount: "database", OwnEngine: of.driver == "docker",
			}
			s.Start(agent.AuthPath, j)
			s.jobs = append(s.jobs, j)
		}
	}
	for _, driver := range []string{"raw_exec", "docker"} {
		batch := lab.OutageJob{
			Name: "soak-batch-" + driver[:3], Driver: driver, Count: 2, TTL: 30 * time.Second,
			Mount: "database", Batch: 90 * time.Second, OwnEngine: driver == "docker",
		}
		s.Start(agent.AuthPath, batch)
		s.jobs = append(s.jobs, batch)
	}
	require.Len(t, s.Tasks, 40)
	proxy.Seen(s.request)

	var early, late int // the plugins' memory
	for end := time.Now().Add(duration); time.Now().Before(end); {
		s.one()
		s.rest(time.Duration(1000+s.random.IntN(5000)) * time.Millisecond)
		if rss := s.memory(); time.Until(end) > duration/2 {
			early = max(early, rss)
		} else {
			late = max(late, rss)
		}
	}

	s.calm()
	s.countRestarts()
	for _, task := range s.Tasks {
		s.check(task)
	}
	fmt.Printf("soak: in the busiest second: %s\n", s.kindsOf(s.busiest()))
	fmt.Printf("soak: %d faults; %d requests, %d in the busiest second; the plugins' memory %d MiB, then %d MiB; %d rotations; refused for %v at the longest; %d restarts left to Nomad\n",
		len(s.away), len(s.sent), len(s.busiest()), early>>10, late>>10, s.rotations, s.longest.Round(100*time.Millisecond), s.byNomad)
	// Two plugins, and one more for each that was killed; and what net/http repeats by itself on the four idle
	// connections that each of two keeps, when the fault is one that breaks them.
	require.LessOrEqual(t, len(s.busiest()), 3*soakRate+2*4)
	require.LessOrEqual(t, late, early+early/2, "the plugins' memory grows")
}

func soakOptions(t *testing.T) (duration time.Duration, seed uint64) {
	duration, seed = 15*time.Minute, rand.Uint64N(1e6)
	var err error
	if d := os.Getenv("DURATION"); d != "" {
		duration, err = time.ParseDuration(d)
		require.NoError(t, err)
	}
	if s := os.Getenv("SEED"); s != "" {
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	return duration, seed
}

// soak is one run.
type soak struct {
	*lab.OutageLab
	proxy     *harness.FaultProxy
	agent     *harness.Agent
	engine    *harness.Engine
	random    *rand.Rand
	jobs      []lab.OutageJob
	away      []span // when the server, the plugin, the agent or the engine was
	rotations int
	longest   time.Duration

	killed  time.Time // the plugin or the agent, the last time
	byNomad int       // restarts, of all tasks

	mu   sync.Mutex // guards sent
	sent []sent
}

// sent is one request that the server got.
type sent struct {
	at   time.Time
	path string
}

type span struct{ from, to time.Time }

// request notes one in the background: those of revocations are outside the rate.
func (s *soak) request(r *http.Request) {
	if strings.Contains(r.URL.Path, "revoke") {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, sent{time.Now(), r.Method + " " + r.URL.Path})
}

// busiest are the requests of the second with the most of them.
func (s *soak) busiest() (most []sent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := 0
	for i, r := range s.sent {
		for r.at.Sub(s.sent[first].at) >= time.Second {
			first++
		}
		if n := i - first + 1; n > len(most) {
			most = s.sent[first : i+1]
		}
	}
	return most
}

// kindsOf says when requests came, and how many of each kind.
func (s *soak) kindsOf(requests []sent) string {
	if len(requests) == 0 {
		return "none"
	}
	counts := map[string]int{}
	for _, r := range requests {
		counts[r.path]++
	}
	return fmt.Sprintf("from %s on: %v", requests[0].at.Format("15:04:05.000"), counts)
}

// rest lets time pass: the tasks are what is tested, and they are not to be waited for.
func (s *soak) rest(d time.Duration) {
	ctx, cancel := context.WithTimeout(s.Ctx, d)
	defer cancel()
	<-ctx.Done()
}

// one is one fault, from its beginning to its end.
func (s *soak) one() {
	length := time.Duration(1000+s.random.IntN(9000)) * time.Millisecond
	driver := []string{"raw_exec", "docker"}[s.random.IntN(2)]
	job := s.jobs[s.random.IntN(len(s.jobs))]
	proxied := func(f harness.Fault) func() error {
		return func() error {
			s.proxy.Break(f)
			s.rest(length)
			s.proxy.Heal()
			return nil
		}
	}
	faults := []struct {
		name string
		do   func() error
	}{
		{"vault killed", func() error { s.Server.Kill(); s.rest(length); return s.Server.Start(s.Ctx) }},
		{"vault sealed", func() error {
			if err := s.Server.Seal(s.Ctx); err != nil {
				return err
			}
			s.rest(length)
			return s.Server.Unseal(s.Ctx)
		}},
		{"vault paused", func() error {
			if err := s.Server.Pause(); err != nil {
				return err
			}
			s.rest(length)
			return s.Server.Resume()
		}},
		{"plugin " + driver + " killed", func() error { return s.agent.KillPlugin(driver) }},
		{"agent restarted", func() error { return s.agent.Restart(s.Ctx) }},
		{"agent killed", func() error { s.agent.Kill(); return s.agent.Start(s.Ctx) }},
		{"leases of " + job.Name + " revoked", func() error {
			return s.Server.Client().Sys().RevokePrefixWithContext(s.Ctx, "database/creds/"+job.Name)
		}},
		{"secret of " + job.Name + " written", func() error {
			return s.Server.PutKV2(s.Ctx, "secret", job.Name, map[string]any{"colour": s.random.Int()})
		}},
		{"engine stopped", func() error { s.engine.Stop(); s.rest(length); return s.engine.Start(s.Ctx) }},
		{"engine killed", func() error {
			if err := s.engine.Kill(s.Ctx); err != nil {
				return err
			}
			s.rest(length)
			return s.engine.Start(s.Ctx)
		}},
		{"leases of containers revoked, and engine killed", func() error {
			// Seen within lease_check_interval: the engine goes away before, in the midst of, or after the restarts in place.
			for _, j := range s.jobs {
				if j.Driver != "docker" {
					continue
				}
				if err := s.Server.Client().Sys().RevokePrefixWithContext(s.Ctx, "database/creds/"+j.Name); err != nil {
					return err
				}
			}
			s.rest(time.Duration(s.random.Int64N(int64(soakCheck))))
			if err := s.engine.Kill(s.Ctx); err != nil {
				return err
			}
			s.rest(length)
			return s.engine.Start(s.Ctx)
		}},
		{"429", proxied(harness.Fault{Status: 429})},
		{"500", proxied(harness.Fault{Status: 500})},
		{"reset", proxied(harness.Fault{Reset: true})},
		{"no answers", proxied(harness.Fault{Hang: true})},
		{"slow", proxied(harness.Fault{Delay: 2 * time.Second})},
		{"refused", func() error { s.proxy.Refuse(); s.rest(length); return s.proxy.Accept() }},
	}
	f := faults[s.random.IntN(len(faults))]
	from := time.Now()
	fmt.Printf("soak: %s %s\n", from.Format(time.TimeOnly), f.name)
	require.NoError(s.T, f.do(), f.name)
	if strings.HasPrefix(f.name, "plugin") || strings.HasPrefix(f.name, "agent") {
		s.killed = time.Now()
	}
	if strings.HasPrefix(f.name, "plugin") {
		// Nomad starts it again when it next looks, and only then do its tasks have somebody.
		s.Until("the plugin to be back", func() error { _, err := s.agent.PluginPID(driver); return err })
	}
	s.away = append(s.away, span{from, time.Now()})
	s.countRestarts()
	if strings.Contains(f.name, "engine") {
		// Restarts in place take until the engine is back, and some seconds more. A plugin or an agent that is killed in the midst of one
		// leaves the restart to Nomad (the crash matrix has that), and here few are to be Nomad's.
		s.calm()
	}
}

// leftToNomad is how many restarts are Nomad's at the most: a plugin or an agent is killed by chance in the midst of a restart in place.
const leftToNomad = 2

// countRestarts asserts that all tasks run, and that Nomad has restarted none, but for the few after a plugin's or an agent's end.
func (s *soak) countRestarts() {
	s.T.Helper()
	n := 0
	for _, task := range s.Tasks {
		restarts, err := task.Alloc.Restarts(s.Ctx, lab.App)
		require.NoError(s.T, err)
		n += int(restarts)
	}
	if n > s.byNomad {
		fmt.Printf("soak: %s Nomad has restarted %d\n", time.Now().Format(time.TimeOnly), n-s.byNomad)
		require.Less(s.T, time.Since(s.killed), time.Minute, "Nomad has restarted a task, and no plugin was killed in the midst of a restart in place")
		require.LessOrEqual(s.T, n, leftToNomad, "tasks that Nomad has restarted")
	}
	s.byNomad = n
}

// calm waits until each task has one lease, and a process that logs in with it.
func (s *soak) calm() {
	for _, j := range s.jobs {
		s.OneLeaseEach(j)
	}
	for _, task := range s.Tasks {
		s.Until("a last log-in of "+task.Job.Name, func() error {
			if _, since := s.refusals(task); time.Since(since) < 2*time.Second {
				return fmt.Errorf("refused %v ago", time.Since(since))
			}
			return s.runs(task)
		})
	}
}

// runs reports whether a task's process is beyond its start, and a restart in place is not under way.
func (s *soak) runs(task *lab.OutageTask) error {
	if task.Job.OwnEngine {
		c, err := s.engine.Container(s.Ctx, task.Alloc, lab.App)
		if err != nil {
			return err
		}
		began, err := time.Parse(time.RFC3339Nano, c.State.StartedAt)
		if err != nil {
			return err
		}
		if !c.State.Running || time.Since(began) < 2*time.Second {
			return fmt.Errorf("its container is %s since %s", c.State.Status, c.State.StartedAt)
		}
	}
	lines, err := task.Alloc.Lines(lab.App, "")
	if err != nil {
		return err
	}
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "login ") && !strings.HasPrefix(last, "refused ") {
		return fmt.Errorf("its last line is %q", last)
	}
	return nil
}

// check looks through a task's life: how long it was refused at a stretch, without the time in which
// somebody whom it needs was away.
func (s *soak) check(task *lab.OutageTask) {
	s.T.Helper()
	starts, err := task.Alloc.Lines(lab.App, "start ")
	require.NoError(s.T, err)
	s.rotations += len(starts) - 1
	all, _ := s.refusals(task)
	for i := 0; i < len(all); {
		from, to := all[i], all[i]
		for i++; i < len(all) && all[i].Sub(to) < 3*time.Second; i++ {
			to = all[i]
		}
		held := s.withoutAway(span{from, to})
		s.longest = max(s.longest, held)
		require.LessOrEqual(s.T, held, soakBound, "%s was refused from %v to %v", task.Job.Name, from, to)
	}
}

// withoutAway is the longest stretch of a span in which nobody was away: whoever was, has the time that
// C6 allows from his return.
func (s *soak) withoutAway(of span) (longest time.Duration) {
	from := of.from
	for _, a := range s.away {
		if a.to.Before(from) || a.from.After(of.to) {
			continue
		}
		longest = max(longest, a.from.Sub(from))
		from = a.to
	}
	return max(longest, of.to.Sub(from))
}

// refusals are when a task was refused, and the last of them.
func (s *soak) refusals(task *lab.OutageTask) (all []time.Time, last time.Time) {
	lines, err := task.Alloc.Lines(lab.App, "refused ")
	require.NoError(s.T, err)
	for _, line := range lines {
		_, rest, _ := strings.Cut(line, " at=")
		ms, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		require.NoError(s.T, err, line)
		last = time.UnixMilli(ms)
		all = append(all, last)
	}
	return all, last
}

// memory is the resident memory of both plugins, in KiB.
func (s *soak) memory() (kib int) {
	for _, driver := range []string{"raw_exec", "docker"} {
		pid, err := s.agent.PluginPID(driver)
		if err != nil {
			continue // it was just killed
		}
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, rest, _ := strings.Cut(string(status), "VmRSS:")
		n := 0
		_, _ = fmt.Sscan(rest, &n)
		kib += n
	}
	return kib
}
