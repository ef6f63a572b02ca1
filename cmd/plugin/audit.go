package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/audit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
)

type auditCommand struct{ stdout, stderr io.Writer }

func (auditCommand) Synopsis() string {
	return "Look for the secrets of this node's tasks where they must not be"
}

func (auditCommand) Help() string {
	return `Usage: nomad-driver-secrets audit [-config PATH]… [-all] [-json]

Looks for the secrets of the tasks that run on this node in what Docker tells of containers, in Docker's, containerd's and
Nomad's files, in logs and in command lines. It tells what is where, and of which driver's task; it never prints a value.

The values that are looked for are this plugin's (its journal, and the variables that it gave to tasks) and those in the
secrets directory of any task, by whatever they came there: so Nomad's own template blocks are audited, too. Run it as root.

  $ nomad-driver-secrets audit
  $ nomad-driver-secrets audit -config /etc/nomad.d -json

Options:
  -config PATH  a file or directory of the agent's configuration, as the agent is given it; may be given several
                times. By default that of the Nomad client that runs here, else /etc/nomad.d.
  -all          look at images' layers and at volumes, too, which takes as long as reading the disk
  -json         one JSON object: tasks, leaks, and what was not looked for or at

Exit status: 0; 1 when something was found, or could not be looked at; 2 for wrong usage.`
}

func (c auditCommand) Run(args []string) int {
	var o audit.Options
	f := flag.NewFlagSet("audit", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	asJSON := f.Bool("json", false, "")
	f.BoolVar(&o.All, "all", false, "")
	f.Func("config", "", appendTo(&o.Paths))
	if err := parseOptions(f, args); err != nil {
		return usage(c.stderr, "audit", err, c.Help())
	}
	if os.Geteuid() != 0 {
		_, _ = fmt.Fprintln(c.stderr, "audit: run it as root: others see neither the secrets nor the places")
		return 1
	}
	ctx, stop := interruptible()
	defer stop()
	report, err := audit.Run(ctx, o)
	if err == nil {
		if *asJSON {
			err = json.NewEncoder(c.stdout).Encode(report)
		} else {
			err = audit.Write(screen.Of(c.stdout), report)
		}
	}
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, "audit:", err)
		return 1
	}
	if !report.Clean() {
		return 1
	}
	return 0
}
