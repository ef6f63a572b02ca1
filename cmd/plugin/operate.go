package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/table"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/control"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

// operateCommand is refresh, or rotate.
type operateCommand struct {
	op             lifecycle.Operation
	stdout, stderr io.Writer
}

func (c operateCommand) Synopsis() string {
	if c.op == lifecycle.Rotate {
		return "Give tasks new credentials now, as after a leak"
	}
	return "Look at all secrets now, and replace what has changed or was revoked"
}

const refreshHelp = `Usage: nomad-driver-secrets refresh [options]

Looks at everything now: leases and tokens are looked up on the server, static secrets are read, and what has failed is tried
again. What has changed, or was revoked (vault lease revoke -prefix), is replaced as it would be otherwise, after the splay and
the stagger of its job. Waits until that is done, and prints what was done. Needs root.

  $ sudo nomad-driver-secrets refresh
`

const rotateHelp = `Usage: nomad-driver-secrets rotate [options]

Has the server make new credentials, gives them to the tasks (after the splay and the stagger of the job, by its change mode),
and revokes the old ones. Waits until that is done, and prints what was done. What the server does not make (a KV secret, a
static role) is left as it is: write a new value there. Needs root.

  $ sudo nomad-driver-secrets rotate -alloc 5a2b -secret db
`

func (c operateCommand) Help() string {
	help, wrong := refreshHelp, "a secret could not be looked at or replaced"
	if c.op == lifecycle.Rotate {
		help, wrong = rotateHelp, "a credential could not be replaced, or the old one not be revoked, or there is none to be replaced"
	}
	return help + "\n" + askHelp + `
  -timeout TIME     wait no longer (default 10m); the plugins go on

Exit status: 0; 1 when ` + wrong + `, or no task matches; 2 for wrong usage.`
}

func (c operateCommand) Run(args []string) int {
	var o askOptions
	f := o.flags(string(c.op))
	timeout := f.Duration("timeout", 10*time.Minute, "")
	err := parseOptions(f, args)
	if err == nil && *timeout <= 0 {
		err = fmt.Errorf("-timeout %v: give a time to wait, more than 0", *timeout)
	}
	if err != nil {
		return usage(c.stderr, string(c.op), err, c.Help())
	}
	ctx, stop := interruptible()
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	all, err := control.Operate(ctx, o.stateDir, c.op, o.selection)
	if err != nil {
		return c.fail("%v", err)
	}
	if len(all) == 0 {
		return c.fail("%s", noPlugin(o.stateDir))
	}
	if o.json {
		_ = json.NewEncoder(c.stdout).Encode(struct {
			Plugins []control.Done `json:"plugins"`
		}{all})
	} else {
		showDone(screen.Of(c.stdout), all)
	}
	return c.judge(all)
}

func (c operateCommand) fail(format string, args ...any) int {
	_, _ = fmt.Fprintf(c.stderr, string(c.op)+": "+format+"\n", args...)
	return 1
}

// judge gives the exit status.
func (c operateCommand) judge(all []control.Done) int {
	counts := map[lifecycle.Result]int{}
	matched, bad := 0, false
	for _, d := range all {
		if d.Problem != "" {
			bad = true
			_ = c.fail("%s (process %d): %s", d.Driver, d.PID, screen.Clean(d.Problem))
		}
		for _, o := range d.Outcomes {
			counts[o.Result]++
			matched++
			bad = bad || !o.Result.OK()
		}
	}
	switch {
	case bad:
		return 1
	case matched == 0:
		return c.fail("no secret of a task that runs here matches")
	case c.op == lifecycle.Rotate && counts[lifecycle.Replaced] == 0:
		return c.fail("no credential was replaced")
	}
	return 0
}

// showDone prints what was done to whom.
func showDone(s screen.Screen, all []control.Done) {
	var rows [][]string
	var details []string
	for _, d := range all {
		for _, o := range d.Outcomes {
			colour := text.FgGreen
			switch {
			case !o.Result.OK():
				colour = text.FgRed
			case o.Result == lifecycle.Replaced:
				colour = text.FgYellow
			}
			row := []string{taskName(o.Job, o.Task), screen.ShortID(o.Alloc), screen.Clean(o.Secret), s.Paint(string(o.Result), colour)}
			if !s.Terminal { // else it may not fit
				row = append(row, screen.Clean(o.Detail))
			} else if o.Detail != "" && o.Result != lifecycle.Unchanged {
				details = append(details, strings.Join(append(row[:3:3], string(o.Result)), " ")+": "+screen.Clean(o.Detail))
			}
			rows = append(rows, row)
		}
	}
	columns := []table.Column{{Title: "TASK", Least: 12}, {Title: "ALLOC"}, {Title: "SECRET", Least: 8}, {Title: "RESULT"}}
	if !s.Terminal {
		columns = append(columns, table.Column{Title: "DETAIL", Least: 20})
	}
	s.Tabulate(columns, rows)
	if len(details) > 0 {
		s.Print("\n")
	}
	for _, detail := range details {
		s.Line(detail)
	}
}
