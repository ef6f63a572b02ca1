package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/nomadversion"
)

type versionCommand struct{ stdout, stderr io.Writer }

func (versionCommand) Synopsis() string {
	return "Print the versions of this program and of Nomad's drivers in it"
}

func (versionCommand) Help() string {
	return `Usage: nomad-driver-secrets version [-json]

Prints this program's version, the commit that it was built of, and the Nomad version that the drivers in it are from.

  $ nomad-driver-secrets version

Options:
  -json         one JSON object: version, commit and nomad

Exit status: 0; 2 for wrong usage.`
}

func (c versionCommand) Run(args []string) int {
	f := flag.NewFlagSet("version", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	asJSON := f.Bool("json", false, "")
	if err := parseOptions(f, args); err != nil {
		return usage(c.stderr, "version", err, c.Help())
	}
	v := struct {
		Version string `json:"version"`
		Commit  string `json:"commit,omitempty"`
		Nomad   string `json:"nomad"`
	}{driver.Version, driver.Commit, nomadversion.Wrapped()}
	if *asJSON {
		_ = json.NewEncoder(c.stdout).Encode(v)
		return 0
	}
	commit := ""
	if v.Commit != "" {
		commit = " (" + v.Commit + ")"
	}
	_, _ = fmt.Fprintf(c.stdout, "%s %s%s, with the drivers of Nomad %s\n", name, v.Version, commit, v.Nomad)
	return 0
}
