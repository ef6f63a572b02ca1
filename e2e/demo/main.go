// Demo starts Vault, MariaDB and Nomad with the plugin on this machine, runs the job beside this file,
// and shows its database credentials rotate; or, with a Nomad alone, how a Nomad Variable's changes reach a task. Run it by
// `make demo` and `make demo PROVIDER=nomad`.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

//go:embed demo.nomad.hcl
var jobHCL string

// policy is all that the job may do in Vault. The second rule lets the plugin revoke what it leased.
const policy = `path "database/creds/demo" {
  capabilities = ["read"]
}
path "sys/leases/revoke" {
  capabilities = ["update"]
}
`

const (
	rotations = 3
	// lifetime is short, so that there is something to see. MariaDB users of Vault's live for days.
	lifetime = 20 * time.Second
	patience = 3 * time.Minute
)

func main() {
	oneshot := flag.Bool("oneshot", false, "end after the rotations, without waiting for Ctrl-C")
	provider := flag.String("provider", "vault", "where the secrets are: vault, or nomad")
	flag.Parse()
	show, known := map[string]func(context.Context, bool) error{"vault": run, "nomad": runNomad}[*provider]
	if !known {
		fmt.Fprintf(os.Stderr, "demo: provider %q is not known; use vault or nomad\n", *provider)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := show(ctx, *oneshot)
	if interrupted := ctx.Err() != nil; err != nil && !interrupted {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, oneshot bool) (err error) {
	c, err := harness.Start(ctx, harness.Options{
		Agent:    harness.AgentOptions{Placement: harness.InPlace},
		Progress: say,
	})
	if err != nil {
		return err
	}
	defer func() {
		say("stopping everything")
		err = errors.Join(err, c.Close())
	}()

	say("telling Vault about the database, and what the job may read")
	if err := setUpVault(ctx, c); err != nil {
		return err
	}
	say("running the job:\n\n" + indent(jobHCL))
	job, err := c.Agent.Submit(ctx, jobHCL)
	if err != nil {
		return err
	}
	if err := watch(ctx, job); err != nil {
		c.Agent.Dump(os.Stderr, job)
		return err
	}
	if oneshot {
		return nil
	}
	lookAround(c)
	<-ctx.Done()
	fmt.Println()
	return nil
}

func setUpVault(ctx context.Context, c *harness.Cluster) error {
	return errors.Join(
		c.Vault.EnableDatabase(ctx, "database", c.MariaDB),
		c.Vault.DatabaseRole(ctx, "database", "demo", lifetime, lifetime),
		c.Vault.Policy(ctx, "demo", policy),
		c.Vault.WorkloadRole(ctx, c.Agent.AuthPath, harness.DefaultWorkloadRole, harness.WorkloadRole{
			Policies: []string{"demo"}, Period: 30 * time.Minute,
		}),
	)
}

// watch prints who the task's process is in the database, each time that it is somebody new.
func watch(ctx context.Context, job *harness.Job) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	alloc, err := job.Running(ctx)
	if err != nil {
		return err
	}
	sayf("the task runs; its credentials live for %s, so it is given new ones before", lifetime)
	for n := range rotations + 1 {
		logins, err := alloc.WaitLines(ctx, "web", "login ", n+1)
		if err != nil {
			return err
		}
		sayf("  %s  the process is logged in to MariaDB as %s", time.Now().Format(time.TimeOnly), strings.TrimPrefix(logins[n], "user="))
	}
	restarts, err := alloc.Restarts(ctx, "web")
	if err != nil {
		return err
	}
	refused, err := alloc.Lines("web", "refused ")
	if err != nil {
		return err
	}
	sayf("%d rotations; log-ins refused: %d; restarts counted by Nomad: %d", rotations, len(refused), restarts)
	events, err := alloc.Events(ctx, "web")
	if err != nil {
		return err
	}
	say("what Nomad's users see of it, as task events:\n\n" + indent(strings.Join(events, "\n")))
	if len(refused) > 0 {
		return errors.New("the database refused the task:\n" + strings.Join(refused, "\n"))
	}
	return nil
}

func lookAround(c *harness.Cluster) {
	fmt.Printf(`
Look around, in another terminal:

  export NOMAD_ADDR=%s VAULT_ADDR=%s VAULT_TOKEN=%s
  bin/nomad job status demo
  bin/nomad alloc logs -f -job demo         # each log-in, over all rotations
  bin/nomad alloc status $(docker ps -qf name=web- --format '{{.Label "com.hashicorp.nomad.alloc_id"}}')
  bin/vault list sys/leases/lookup/database/creds/demo
  docker inspect $(docker ps -qf name=web-) # no credentials in there
  bin/nomad job stop demo                   # and the lease is revoked

Logs and configurations are in %s.
Ctrl-C ends it all.
`, c.Agent.Addr, c.Vault.Addr, c.Vault.RootToken, c.Dir())
}

func say(line string)                 { fmt.Println("==> " + line) }
func sayf(format string, args ...any) { say(fmt.Sprintf(format, args...)) }

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
}
