package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestCommands(t *testing.T) {
	for _, tc := range []struct {
		args   string
		status int
		stdout string
		stderr string
	}{
		{"", 0, "volume-driver", ""},
		{"help", 0, "version", ""},
		{"-h", 0, "version", ""},
		{"help version", 0, "Usage: nomad-driver-secrets version", ""},
		{"volume-driver -h", 0, "docker run --rm --volume-driver secrets", ""},
		{"version", 0, "with the drivers of Nomad ", ""},
		{"version -json", 0, `{"version":"`, ""},
		{"status -h", 0, "sudo nomad-driver-secrets status -alloc 5a2b -json", ""},
		{"refresh -h", 0, "vault lease revoke -prefix", ""},
		{"rotate -h", 0, "sudo nomad-driver-secrets rotate -alloc 5a2b -secret db", ""},
		{"status more", 2, "", `status: unexpected argument "more"`},
		{"refresh -nonsense", 2, "", "refresh: flag provided but not defined: -nonsense"},
		{"rotate -aloc 5a2b", 2, "", "rotate: flag provided but not defined: -aloc"},
		{"rotate -timeout -1s", 2, "", "rotate: -timeout -1s: give a time to wait, more than 0"},
		{"status -state-dir /nowhere", 1, "", "no plugin process has its status socket in /nowhere/status"},
		{"status -json -state-dir /nowhere", 1, `{"plugins":[]}`, "no plugin process"},
		{"rotate -state-dir /nowhere", 1, "", "no plugin process"},
		{"version more", 2, "", `version: unexpected argument "more"`},
		{"version -nonsense", 2, "", "version: flag provided but not defined: -nonsense"},
		{"doctor -h", 0, "nomad-driver-secrets doctor -config /etc/nomad.d -json", ""},
		{"doctor more", 2, "", `doctor: unexpected argument "more"`},
		{"doctor -config /nowhere/nomad.hcl", 1, "error   configuration: stat /nowhere/nomad.hcl: no such file or directory", ""},
		{"doctor -json -config /nowhere/nomad.hcl", 1, `{"status":"error","check":"configuration","text":"stat /nowhere/nomad.hcl: no such file or directory","do":"`, ""},
		{"audit -h", 0, "nomad-driver-secrets audit -config /etc/nomad.d -json", ""},
		{"audit more", 2, "", `audit: unexpected argument "more"`},
		{"audit -config /nowhere/nomad.hcl", 1, "", "audit: stat /nowhere/nomad.hcl: no such file or directory"},
		{"nonsense", 2, "", "volume-driver"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			var stdout, stderr strings.Builder
			must.Eq(t, tc.status, runCommand(strings.Fields(tc.args), &stdout, &stderr))
			must.StrContains(t, stdout.String(), tc.stdout)
			must.StrContains(t, stderr.String(), tc.stderr)
		})
	}
}

// Every command says what is wrong with its arguments, and its help which exit statuses there are.
func TestUsageOfEach(t *testing.T) {
	for name := range commandTable(nil, nil) {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			must.Eq(t, 2, runCommand([]string{name, "-nonsense"}, &stdout, &stderr))
			must.StrHasPrefix(t, name+": flag provided but not defined: -nonsense\n", stderr.String())
			must.EqOp(t, "", stdout.String())
			must.Zero(t, runCommand([]string{name, "-h"}, &stdout, &stderr))
			must.RegexMatch(t, regexp.MustCompile(`(?s)\nExit status: 0.*2 for wrong usage`), stdout.String())
		})
	}
}
