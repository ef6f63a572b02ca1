package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// bench is a run. Its servers are started by the first row that needs them.
type bench struct {
	say    func(string)
	factor float64 // of the usual rounds

	starting sync.Mutex
	pair     *pair
}

// pair is both agents, up at once, with one Vault.
type pair struct {
	*harness.Cluster
	ours, builtIn *harness.Agent
	ids           ids
}

func newBench(factor float64, say func(string)) *bench {
	return &bench{say: say, factor: factor}
}

// rounds is how many there are in this run where there are n as a rule.
func (b *bench) rounds(n int) int { return max(1, int(math.Round(float64(n)*b.factor))) }

// agents are started once.
func (b *bench) agents(ctx context.Context) (_ *pair, err error) {
	b.starting.Lock()
	defer b.starting.Unlock()
	if b.pair != nil {
		return b.pair, nil
	}
	b.say("starting Vault and two Nomad agents")
	p := &pair{}
	if p.Cluster, err = harness.StartBare(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
			return
		}
		b.pair = p
	}()
	p.ours, err = p.NewAgent(ctx, harness.AgentOptions{
		Name: "ours", Placement: harness.InPlace, StateInMemory: true, LogLevel: "info",
		Secrets: map[string]any{"poll_interval": pollInterval.String(), "lease_check_interval": "60s"}, // the plugin's defaults
	})
	if err != nil {
		return nil, err
	}
	p.builtIn, err = p.NewAgent(ctx, harness.AgentOptions{Name: "built-in", Placement: harness.BuiltIn, LogLevel: "info"})
	if err != nil {
		return nil, err
	}
	return p, p.setUpVault(ctx)
}

// pollInterval is the plugin's default.
const pollInterval = 10 * time.Second

func (p *pair) setUpVault(ctx context.Context) error {
	err := errors.Join(
		p.Vault.EnableKV2(ctx, mount),
		p.Vault.Policy(ctx, role, fmt.Sprintf("path \"%s/data/*\" { capabilities = [\"read\"] }\npath \"sys/leases/revoke\" { capabilities = [\"update\"] }\n", mount)),
	)
	for _, agent := range []*harness.Agent{p.ours, p.builtIn} {
		err = errors.Join(err, p.Vault.WorkloadRole(ctx, agent.AuthPath, role, harness.WorkloadRole{Policies: []string{role}, TTL: time.Hour}))
	}
	return err
}

// put writes a secret with the fields user and password.
func (p *pair) put(ctx context.Context, name, password string) error {
	return p.Vault.PutKV2(ctx, mount, name, map[string]any{"user": "app", "password": password})
}

func (b *bench) close() error {
	if b.pair == nil {
		return nil
	}
	b.say("stopping everything")
	return b.pair.Close()
}

// running is a job whose tasks run.
type running struct {
	*harness.Job
	agent  *harness.Agent
	allocs []*api.AllocationListStub
}

// start submits a job of n tasks and waits until all of them run. It asks by blocking queries, which take next to nothing
// of the machine.
func (p *pair) start(ctx context.Context, v variant, s spec) (*running, error) {
	agent := p.builtIn
	if v.ours() {
		agent = p.ours
	}
	job, err := agent.Submit(ctx, s.hcl(v, p.ids.next()))
	if err != nil {
		return nil, err
	}
	r := &running{Job: job, agent: agent}
	r.allocs, err = r.await(ctx, func(allocs []*api.AllocationListStub) (bool, error) {
		n := 0
		for _, a := range allocs {
			if a.ClientStatus == api.AllocClientStatusFailed {
				return false, fmt.Errorf("allocation %s failed: %s", a.ID, lastEvent(a))
			}
			if _, ok := eventTime(a, api.TaskStarted); ok {
				n++
			}
		}
		return n == s.count, nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a job of %s: %w", v, err), r.stop(ctx))
	}
	return r, nil
}

// both are a job of ours and one of the built-in driver's, with secrets.
type both map[variant]*running

// startBoth starts both, of what a variant is to run.
func (p *pair) startBoth(ctx context.Context, of func(variant) spec) (_ both, err error) {
	jobs := both{}
	for _, v := range []variant{ours, builtIn} {
		if jobs[v], err = p.start(ctx, v, of(v)); err != nil {
			delete(jobs, v)
			jobs.stop(ctx, &err)
			return nil, err
		}
	}
	return jobs, nil
}

// stop is to be deferred: it stops the jobs also when the run is interrupted, and adds to the row's error.
func (jobs both) stop(ctx context.Context, err *error) {
	for _, r := range jobs {
		*err = errors.Join(*err, r.stop(context.WithoutCancel(ctx)))
	}
}

// startBound is how long 20 tasks may take to start or to stop on a busy machine.
const startBound = 2 * time.Minute

// await waits until the job's allocations are as they are to be.
func (r *running) await(ctx context.Context, as func([]*api.AllocationListStub) (bool, error)) ([]*api.AllocationListStub, error) {
	ctx, cancel := context.WithTimeout(ctx, startBound)
	defer cancel()
	query := &api.QueryOptions{Namespace: r.Namespace, WaitTime: 30 * time.Second}
	for {
		allocs, meta, err := r.agent.Client().Jobs().Allocations(r.ID, false, query.WithContext(ctx))
		if err != nil {
			return nil, err
		}
		if ok, err := as(allocs); ok || err != nil {
			return allocs, err
		}
		query.WaitIndex = meta.LastIndex
	}
}

// stop stops the job, waits until its tasks have ended, and has their directories removed: mounts that stay make the next
// start slower.
func (r *running) stop(ctx context.Context) error {
	jobs, options := r.agent.Client().Jobs(), (&api.WriteOptions{Namespace: r.Namespace}).WithContext(ctx)
	if _, _, err := jobs.Deregister(r.ID, false, options); err != nil {
		return err
	}
	_, err := r.await(ctx, func(allocs []*api.AllocationListStub) (bool, error) {
		for _, a := range allocs {
			if a.ClientStatus == api.AllocClientStatusRunning || a.ClientStatus == api.AllocClientStatusPending {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	if _, _, err := jobs.Deregister(r.ID, true, options); err != nil {
		return err
	}
	return r.agent.Client().System().GarbageCollect()
}

// alloc is the job's first allocation.
func (r *running) alloc(ctx context.Context) (*harness.Alloc, error) {
	all, err := r.Allocs(ctx)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// eventTime is when an event of a task was.
func eventTime(a *api.AllocationListStub, kind string) (at time.Time, ok bool) {
	state := a.TaskStates[task]
	if state == nil {
		return at, false
	}
	for _, e := range state.Events {
		if e.Type == kind {
			return time.Unix(0, e.Time), true
		}
	}
	return at, false
}

func lastEvent(a *api.AllocationListStub) string {
	state := a.TaskStates[task]
	if state == nil || len(state.Events) == 0 {
		return a.ClientDescription
	}
	return state.Events[len(state.Events)-1].DisplayMessage
}
