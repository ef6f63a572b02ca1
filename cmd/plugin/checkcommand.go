package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/check"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
)

type checkCommand struct {
	stdin          io.Reader
	stdout, stderr io.Writer
}

func (checkCommand) Synopsis() string { return "Find what is wrong with the secrets of a job" }

func (checkCommand) Help() string {
	return `Usage: nomad-driver-secrets check [options] JOBFILE

Shows which secrets each task of a job gets, and what is wrong: as errors all that a start would refuse, as warnings
what may not be meant. JOBFILE is HCL, or JSON as of nomad job run -output; - is standard input. Nothing is run, and no server
is asked, but with -live.

  $ nomad-driver-secrets check jobs/readme.nomad.hcl

Options:
` + jobFlagsHelp + `
  -live              ask the server at $VAULT_ADDR what each path is, and whether your token may do there what the
                     task's must; no secret is read, and none made
  -jwt-file PATH     where the plugins look for a task's identity, if their jwt block says so (` + driver.DefaultJWTFile() + `)
  -node-token        the plugins have a token_file: a task that only reads needs no identity

Exit status: 0, with warnings too; 1 when there is an error, or -live cannot ask the server; 2 for wrong usage, or a JOBFILE that
cannot be opened.`
}

func (c checkCommand) Run(args []string) int {
	var o jobOptions
	f := flag.NewFlagSet("check", flag.ContinueOnError)
	o.flags(f)
	live := f.Bool("live", false, "")
	jwtFile := f.String("jwt-file", "", "")
	nodeToken := f.Bool("node-token", false, "")
	if err := o.parse(f, args); err != nil {
		return usage(c.stderr, "check", err, c.Help())
	}
	file, problems, err := o.open(c.stdin)
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, "check:", err)
		return 2
	}
	report := check.Unreadable(file, problems)
	var asked error // of the server; the report has what is known without it
	if len(problems) == 0 {
		report = check.Job(file, check.Options{JWTFile: *jwtFile, NodeToken: *nodeToken})
		if *live {
			asked = askLive(report)
		}
	}
	if o.asJSON {
		err = writeJSON(c.stdout, report)
	} else {
		err = report.Print(c.stdout, styleOf(c.stdout))
	}
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, "check:", err)
		return 1
	}
	if asked != nil {
		_, _ = fmt.Fprintln(c.stderr, "check: -live:", asked)
	}
	if asked != nil || report.Errors() > 0 {
		return 1
	}
	return 0
}

func askLive(report *check.Report) error {
	ctx, stop := interruptible()
	defer stop()
	server, token, err := vaultOfEnv()
	if err != nil {
		return err
	}
	if server == nil {
		return errors.New("no server to ask: set VAULT_ADDR")
	}
	defer server.Close()
	return report.Live(ctx, server, token)
}

// styleOf is how to write to w: a terminal has a width, and colors unless NO_COLOR says otherwise.
func styleOf(w io.Writer) check.Style {
	s := screen.Of(w)
	return check.Style{Width: s.Width, Color: s.Colours}
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
