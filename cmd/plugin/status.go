package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/control"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

// askOptions are what commands have in common that ask the plugin processes of this node.
type askOptions struct {
	stateDir  string
	json      bool
	selection lifecycle.Selection
}

func (o *askOptions) flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.stateDir, "state-dir", driver.DefaultStateDir, "")
	f.BoolVar(&o.json, "json", false, "")
	f.StringVar(&o.selection.Alloc, "alloc", "", "")
	f.StringVar(&o.selection.Task, "task", "", "")
	f.StringVar(&o.selection.Secret, "secret", "", "")
	return f
}

const askHelp = `  -alloc ID         of this allocation only; the first characters of its id do
  -task NAME        of tasks of this name only
  -secret NAME      of secrets of this name only
  -state-dir PATH   the plugins' state_dir (default ` + driver.DefaultStateDir + `)
  -json             for programs`

// noPlugin is what is said when nobody answers.
func noPlugin(stateDir string) string {
	return fmt.Sprintf("no plugin process has its status socket in %s/status: does a Nomad agent with this plugin run on this node, and is that its state_dir (-state-dir)?", stateDir)
}

const (
	watchEvery  = 2 * time.Second
	clearScreen = "\x1b[H\x1b[2J"
)

type statusCommand struct{ stdout, stderr io.Writer }

func (statusCommand) Synopsis() string {
	return "Show this node's plugin processes, their tasks and how the secrets stand"
}

func (statusCommand) Help() string {
	return `Usage: nomad-driver-secrets status [options]

Shows each plugin process of this node, and how the secrets of its tasks stand: when they are renewed, when they end, what
last changed and why, and what is wrong. It answers while the secrets server is away, too. Needs root.

  $ sudo nomad-driver-secrets status
  $ sudo nomad-driver-secrets status -alloc 5a2b -json

` + askHelp + `
  -watch            again every 2 s, until Ctrl-C

Exit status: 0; 1 when a plugin does not answer or has lost its agent, its server is away, or a secret has ended, or could not
be renewed or replaced; 2 for wrong usage.`
}

func (c statusCommand) Run(args []string) int {
	var o askOptions
	f := o.flags("status")
	watch := f.Bool("watch", false, "")
	if err := parseOptions(f, args); err != nil {
		return usage(c.stderr, "status", err, c.Help())
	}
	ctx, stop := interruptible()
	defer stop()
	if !*watch {
		return c.once(ctx, o, "")
	}
	before := ""
	if screen.Of(c.stdout).Terminal && !o.json {
		before = clearScreen
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		status := c.once(ctx, o, before)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return status
		}
	}
}

// once prints before, and how things stand now.
func (c statusCommand) once(ctx context.Context, o askOptions, before string) int {
	all, err := control.Status(ctx, o.stateDir)
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, "status:", err)
		return 1
	}
	for i := range all {
		selectTasks(&all[i], o.selection)
	}
	if o.json {
		if all == nil {
			all = []control.Report{}
		}
		_ = json.NewEncoder(c.stdout).Encode(struct {
			Plugins []control.Report `json:"plugins"`
		}{all})
	} else if len(all) > 0 {
		_, _ = io.WriteString(c.stdout, before)
		view := statusView{Screen: screen.Of(c.stdout), now: time.Now()}
		view.show(all)
	}
	if len(all) == 0 {
		_, _ = fmt.Fprintln(c.stderr, "status:", noPlugin(o.stateDir))
		return 1
	}
	if !healthy(all) {
		return 1
	}
	return 0
}

// selectTasks leaves of a report what is asked for.
func selectTasks(r *control.Report, sel lifecycle.Selection) {
	if sel == (lifecycle.Selection{}) {
		return
	}
	var tasks []lifecycle.TaskStatus
	for _, t := range r.Tasks {
		if !strings.HasPrefix(t.Alloc, sel.Alloc) || sel.Task != "" && sel.Task != t.Task {
			continue
		}
		if sel.Secret != "" {
			var secrets []lifecycle.SecretStatus
			for _, s := range t.Secrets {
				if s.Name == sel.Secret {
					secrets = append(secrets, s)
				}
			}
			if t.Secrets = secrets; len(secrets) == 0 {
				continue
			}
		}
		tasks = append(tasks, t)
	}
	r.Tasks = tasks
}

// healthy reports whether nothing is wrong. What is on its way is not wrong.
func healthy(all []control.Report) bool {
	for _, r := range all {
		if r.Problem != "" || !r.AgentGone.IsZero() {
			return false
		}
		for _, t := range r.Tasks {
			if t.State == lifecycle.TaskUnwatched || t.State == lifecycle.TaskWithoutKey || len(t.Outages) > 0 {
				return false
			}
			for _, s := range t.Secrets {
				if !s.State.OK() {
					return false
				}
			}
		}
	}
	return true
}
