package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

//go:embed nomad.nomad.hcl
var nomadJobHCL string

// variable is what the job of a Nomad alone reads.
const variable = "nomad/jobs/demo"

// runNomad shows the changes of a Nomad Variable reach a running task, with a Nomad and nothing else.
func runNomad(ctx context.Context, oneshot bool) (err error) {
	c, err := harness.StartNomad(ctx, harness.Options{Agent: harness.AgentOptions{Placement: harness.InPlace}, Progress: say})
	if err != nil {
		return err
	}
	defer func() {
		say("stopping everything")
		err = errors.Join(err, c.Close())
	}()
	if err := greet(ctx, c, "hello"); err != nil {
		return err
	}
	say("running the job:\n\n" + indent(nomadJobHCL))
	job, err := c.Agent.Submit(ctx, nomadJobHCL)
	if err != nil {
		return err
	}
	if err := watchVariable(ctx, c, job); err != nil {
		c.Agent.Dump(os.Stderr, job)
		return err
	}
	if oneshot {
		return nil
	}
	fmt.Printf(`
Look around, in another terminal:

  export NOMAD_ADDR=%s
  bin/nomad var put -force %s greeting="good night"
  bin/nomad alloc logs -job demo            # each process of the task, over all changes
  bin/nomad alloc status $(docker ps -qf name=web- --format '{{.Label "com.hashicorp.nomad.alloc_id"}}')
  docker inspect $(docker ps -qf name=web-) # no greeting in there

Logs and configurations are in %s.
Ctrl-C ends it all.
`, c.Agent.Addr, variable, c.Dir())
	<-ctx.Done()
	fmt.Println()
	return nil
}

func greet(ctx context.Context, c *harness.Cluster, greeting string) error {
	sayf("bin/nomad var put %s greeting=%q", variable, greeting)
	_, _, err := c.Agent.Client().Variables().Create(&api.Variable{Path: variable, Items: api.VariableItems{"greeting": greeting}}, (&api.WriteOptions{}).WithContext(ctx))
	return err
}

// watchVariable changes the variable, and shows when the task's next process has it.
func watchVariable(ctx context.Context, c *harness.Cluster, job *harness.Job) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	alloc, err := job.Running(ctx)
	if err != nil {
		return err
	}
	written := time.Now()
	for n, next := range []string{"good morning", "good evening", ""} {
		lines, err := alloc.WaitLines(ctx, "web", "env ", n+1)
		if err != nil {
			return err
		}
		told := ""
		if n > 0 {
			told = fmt.Sprintf(", %v after the change", time.Since(written).Round(10*time.Millisecond))
		}
		sayf("  the process has %s%s", lines[n], told)
		if next == "" {
			break
		}
		if err := greet(ctx, c, next); err != nil {
			return err
		}
		written = time.Now()
	}
	restarts, err := alloc.Restarts(ctx, "web")
	if err != nil {
		return err
	}
	events, err := alloc.Events(ctx, "web")
	if err != nil {
		return err
	}
	sayf("restarts counted by Nomad: %d", restarts)
	say("what Nomad's users see of it, as task events:\n\n" + indent(strings.Join(events, "\n")))
	return nil
}
