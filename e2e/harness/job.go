package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// Job is a job that was submitted.
type Job struct {
	ID        string
	Namespace string
	agent     *Agent
}

// Submit parses and registers a job as `nomad job run` does. The node's meta is there for jobs to
// use: "${meta.image}" is the image with busybox and testapp, "${meta.db_addr}" is MariaDB. The
// job's variables are set by vars. Under Beside, tasks of the drivers docker and raw_exec,
// and constraints on their attributes, are turned to docker-secrets and raw_exec-secrets.
func (a *Agent) Submit(ctx context.Context, hcl string, vars ...Var) (*Job, error) {
	parsed, err := a.parse(hcl, vars)
	if err != nil {
		return nil, err
	}
	return a.SubmitParsed(ctx, parsed)
}

// SubmitAsIs is Submit, but leaves the drivers as the job has them: under Beside, docker and raw_exec
// are Nomad's own.
func (a *Agent) SubmitAsIs(ctx context.Context, hcl string, vars ...Var) (*Job, error) {
	parsed, err := a.parse(hcl, vars)
	if err != nil {
		return nil, err
	}
	return a.register(ctx, parsed)
}

func (a *Agent) parse(hcl string, vars []Var) (*api.Job, error) {
	var file strings.Builder
	for _, v := range vars {
		value, err := json.Marshal(v.Value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&file, "%s = %s\n", v.Name, value)
	}
	parsed, err := a.api.Jobs().ParseHCLOpts(&api.JobsParseRequest{JobHCL: hcl, Variables: file.String(), Canonicalize: true})
	if err != nil {
		return nil, fmt.Errorf("parse job: %w", err)
	}
	return parsed, nil
}

// Job is one that was submitted otherwise, in the namespace default.
func (a *Agent) Job(id string) *Job { return &Job{ID: id, Namespace: "default", agent: a} }

// Var is a value for one of the job's variables.
type Var struct {
	Name  string
	Value any
}

// SubmitParsed registers a job that the caller made or changed.
func (a *Agent) SubmitParsed(ctx context.Context, parsed *api.Job) (*Job, error) {
	parsed.Canonicalize()
	a.placeOnOurDrivers(parsed)
	return a.register(ctx, parsed)
}

func (a *Agent) register(ctx context.Context, parsed *api.Job) (*Job, error) {
	if _, _, err := a.api.Jobs().Register(parsed, (&api.WriteOptions{Namespace: *parsed.Namespace}).WithContext(ctx)); err != nil {
		return nil, fmt.Errorf("register job %s: %w", *parsed.ID, err)
	}
	return &Job{ID: *parsed.ID, Namespace: *parsed.Namespace, agent: a}, nil
}

func (a *Agent) placeOnOurDrivers(job *api.Job) {
	constraints := job.Constraints
	for _, group := range job.TaskGroups {
		constraints = append(constraints, group.Constraints...)
		for _, task := range group.Tasks {
			constraints = append(constraints, task.Constraints...)
			if task.Driver == "docker" || task.Driver == "raw_exec" {
				task.Driver = a.Driver(task.Driver)
			}
		}
	}
	for _, c := range constraints {
		for _, driver := range []string{"docker", "raw_exec"} {
			c.LTarget = strings.Replace(c.LTarget, "driver."+driver+".secrets", "driver."+a.Driver(driver)+".secrets", 1)
		}
	}
}

// Allocs are the job's allocations as they are now, the newest first.
func (j *Job) Allocs(ctx context.Context) ([]*Alloc, error) {
	stubs, _, err := j.agent.api.Jobs().Allocations(j.ID, true, j.query(ctx))
	if err != nil {
		return nil, err
	}
	allocs := make([]*Alloc, len(stubs))
	for i, stub := range stubs {
		allocs[i] = &Alloc{ID: stub.ID, Job: j, agent: j.agent}
	}
	return allocs, nil
}

// Running waits until the job's first allocation runs, all its tasks, and returns it.
func (j *Job) Running(ctx context.Context) (*Alloc, error) {
	allocs, err := j.AllRunning(ctx, 1)
	if err != nil {
		return nil, err
	}
	return allocs[0], nil
}

// AllRunning waits until n allocations run, all their tasks. It gives up at once on one that failed
// or could not be placed.
func (j *Job) AllRunning(ctx context.Context, n int) ([]*Alloc, error) {
	var running []*Alloc
	err := Until(ctx, fmt.Sprintf("job %s to run", j.ID), func() error {
		allocs, err := j.Allocs(ctx)
		if err != nil {
			return err
		}
		running = running[:0]
		for _, alloc := range allocs {
			info, err := alloc.Info(ctx)
			if err != nil {
				return err
			}
			if info.ClientStatus == api.AllocClientStatusFailed {
				return never(fmt.Errorf("allocation %s failed:\n%s", alloc.ID, eventsOf(info)))
			}
			if allTasksRun(info) {
				running = append(running, alloc)
			}
		}
		if len(running) < n {
			return errors.Join(fmt.Errorf("%d of %d allocations run", len(running), n), j.unplaced(ctx))
		}
		return nil
	})
	return running, err
}

func allTasksRun(info *api.Allocation) bool {
	for _, state := range info.TaskStates {
		if state.State != "running" {
			return false
		}
	}
	return len(info.TaskStates) > 0
}

// Failed waits until the job's first allocation has failed, or its start has: for jobs that must not
// run. It returns the allocation, whose events say why.
func (j *Job) Failed(ctx context.Context) (*Alloc, error) {
	var failed *Alloc
	err := Until(ctx, fmt.Sprintf("job %s to fail", j.ID), func() error {
		allocs, err := j.Allocs(ctx)
		if err != nil {
			return err
		}
		for _, alloc := range allocs {
			info, err := alloc.Info(ctx)
			if err != nil {
				return err
			}
			if info.ClientStatus == api.AllocClientStatusFailed {
				failed = alloc
				return nil
			}
		}
		return errors.Join(fmt.Errorf("%d allocations, none failed", len(allocs)), j.unplaced(ctx))
	})
	return failed, err
}

// unplaced says why the scheduler found no node, if so.
func (j *Job) unplaced(ctx context.Context) error {
	evals, _, err := j.agent.api.Jobs().Evaluations(j.ID, j.query(ctx))
	if err != nil {
		return err
	}
	for _, eval := range evals {
		for group, metric := range eval.FailedTGAllocs {
			return fmt.Errorf("group %s has no node: filtered by %v, exhausted %v", group, metric.ConstraintFiltered, metric.DimensionExhausted)
		}
	}
	return nil
}

// Stop stops the job, and waits until its tasks have ended.
func (j *Job) Stop(ctx context.Context) error {
	if err := j.deregister(ctx); err != nil {
		return err
	}
	return j.stopped(ctx)
}

func (j *Job) deregister(ctx context.Context) error {
	// Not purged: a purged job takes its allocations out of stopped's reach.
	_, _, err := j.agent.api.Jobs().Deregister(j.ID, false, (&api.WriteOptions{Namespace: j.Namespace}).WithContext(ctx))
	return err
}

func (j *Job) stopped(ctx context.Context) error {
	return Until(ctx, fmt.Sprintf("job %s to stop", j.ID), func() error {
		stubs, _, err := j.agent.api.Jobs().Allocations(j.ID, true, j.query(ctx))
		if err != nil {
			return err
		}
		for _, stub := range stubs {
			switch stub.ClientStatus {
			case api.AllocClientStatusPending, api.AllocClientStatusRunning, api.AllocClientStatusUnknown:
				return fmt.Errorf("allocation %s is %s", stub.ID, stub.ClientStatus)
			}
		}
		return nil
	})
}

func (j *Job) query(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{Namespace: j.Namespace}).WithContext(ctx)
}
