package main

import (
	"encoding/json"
	"flag"
	"io"
	"os"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/doctor"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

type doctorCommand struct{ stdout, stderr io.Writer }

func (doctorCommand) Synopsis() string {
	return "Look whether this node is fit for tasks with secrets, and say what to do"
}

func (doctorCommand) Help() string {
	return `Usage: nomad-driver-secrets doctor [-config PATH]… [-json]

Looks at the agent's configuration, the plugin's files, the secrets server and the machine. Each line is ok, a
warning or an error, and says what to do. Nothing is changed: the login is tried with a token that no server takes.
Run it as root, on the node, before an agent's restart.

  $ nomad-driver-secrets doctor
  $ nomad-driver-secrets doctor -config /etc/nomad.d -json

Options:
  -config PATH  a file or directory of the agent's configuration, as the agent is given it; may be given several
                times. By default that of the Nomad client that runs here, else /etc/nomad.d.
  -json         one JSON object: findings, each with status, check, text and do

With VAULT_TOKEN in the environment, and the right to read them, the JWT role is looked at closer.

Exit status: 0, with warnings too; 1 when there is an error; 2 for wrong usage.`
}

func (c doctorCommand) Run(args []string) int {
	var o doctor.Options
	f := flag.NewFlagSet("doctor", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	asJSON := f.Bool("json", false, "")
	f.Func("config", "", appendTo(&o.Paths))
	if err := parseOptions(f, args); err != nil {
		return usage(c.stderr, "doctor", err, c.Help())
	}
	ctx, stop := interruptible()
	defer stop()
	o.Token = secrets.TextValue(os.Getenv("VAULT_TOKEN"))
	found := doctor.Check(doctor.Gather(ctx, o))
	var err error
	if *asJSON {
		err = json.NewEncoder(c.stdout).Encode(struct {
			Findings []doctor.Finding `json:"findings"`
		}{found})
	} else {
		err = doctor.Write(screen.Of(c.stdout), found)
	}
	if err != nil || doctor.Worst(found) == doctor.Error {
		return 1
	}
	return 0
}
