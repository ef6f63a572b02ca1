package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/jobfile"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/policy"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

type policyCommand struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

func (policyCommand) Synopsis() string {
	return "Write the least Vault policy that a job's secrets need"
}

func (policyCommand) Help() string {
	return `Usage: nomad-driver-secrets policy [options] JOBFILE

Writes the least Vault policy for each role of a job's tasks; with -role a shell script that writes the policies and the JWT
roles, each bound to the job and its tasks. JOBFILE is HCL, or JSON as of nomad job run -output; - is standard input.

  $ nomad-driver-secrets policy -mount secret=kv2 jobs/kv-env.nomad.hcl | vault policy write kv-env -
  $ nomad-driver-secrets policy -mount secret=kv2 -role jobs/kv-env.nomad.hcl | sh

Nomad Variables that are not the job's own need an ACL policy of Nomad's: -role applies it, and without it is a comment.

Which part of a path is the mount, and which version a KV has, is told by -mount, else asked of the server at $VAULT_ADDR,
else guessed, and then a comment says so.

Options:
` + jobFlagsHelp + `
  -role              a script with policies and JWT roles
  -mount PATH=TYPE   what is mounted at a path: kv1, kv2, cubbyhole or the type of another engine, such as database; may
                     be given several times
  -task NAME         of this task alone; or GROUP/NAME
  -auth-path PATH    where the JWT auth method is (` + driver.DefaultJWTMount() + `)

Exit status: 0; 1 when the policy cannot be written, or not all of it; 2 for wrong usage, or a JOBFILE that cannot be opened.`
}

func (c policyCommand) Run(args []string) int {
	var o jobOptions
	var p policy.Options
	f := flag.NewFlagSet("policy", flag.ContinueOnError)
	o.flags(f)
	role := f.Bool("role", false, "")
	f.StringVar(&p.Task, "task", "", "")
	f.StringVar(&p.AuthPath, "auth-path", driver.DefaultJWTMount(), "")
	f.Func("mount", "", func(s string) error {
		m, err := parseMount(s)
		p.Mounts = append(p.Mounts, m)
		return err
	})
	if err := o.parse(f, args); err != nil {
		return usage(c.stderr, "policy", err, c.Help())
	}
	file, problems, err := o.open(c.stdin)
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, "policy:", err)
		return 2
	}
	plan, err := planOf(file, problems, p)
	if err == nil {
		switch {
		case o.asJSON:
			err = writeJSON(c.stdout, plan)
		case *role:
			err = plan.WriteScript(c.stdout)
		default:
			err = plan.WritePolicies(c.stdout)
		}
	}
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, "policy:", err)
		return 1
	}
	if plan.Incomplete {
		_, _ = fmt.Fprintln(c.stderr, "policy: not all of it is known here: a comment in the policy says what is not")
		return 1
	}
	return 0
}

func planOf(file *jobfile.File, problems []jobfile.Problem, p policy.Options) (*policy.Plan, error) {
	if len(problems) > 0 {
		return nil, fmt.Errorf("%s: %s (%d in all: run check)", problems[0].At, problems[0].Text, len(problems))
	}
	server, token, err := vaultOfEnv()
	if err != nil && len(p.Mounts) == 0 {
		return nil, err
	}
	if server != nil {
		defer server.Close()
		p.Server, p.Token = server, token
	}
	p.NomadNamespace = os.Getenv("NOMAD_NAMESPACE")
	ctx, stop := interruptible()
	defer stop()
	return policy.Of(ctx, file, p)
}

// parseMount reads PATH=TYPE.
func parseMount(s string) (vault.Mount, error) {
	path, kind, ok := strings.Cut(s, "=")
	path = strings.Trim(path, "/")
	if !ok || path == "" || kind == "" {
		return vault.Mount{}, errors.New("give PATH=TYPE, such as secret=kv2")
	}
	m := vault.Mount{Path: path + "/", Type: kind}
	switch kind {
	case "kv":
		return m, errors.New("give kv1 or kv2: their policies differ")
	case "kv1", "kv2":
		m.Type, m.V2 = "kv", kind == "kv2"
	}
	return m, nil
}
