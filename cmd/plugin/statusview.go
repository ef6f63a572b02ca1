package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/table"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/control"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// statusView is how status shows things to people: a table of plugin processes, one of secrets, and below them what is wrong.
type statusView struct {
	screen.Screen
	now   time.Time
	notes []string
}

// wideFrom is how wide a terminal has to be for Nomad's version, a secret's path, and the cause of the last change.
const wideFrom = 120

func (v *statusView) show(all []control.Report) {
	v.plugins(all)
	v.secrets(all)
	for _, r := range all {
		v.noteTrouble(r, all)
	}
	if len(v.notes) > 0 {
		v.Print("\n")
	}
	for _, note := range v.notes {
		v.Line(note)
	}
}

func (v *statusView) plugins(all []control.Report) {
	wide := !v.Narrow(wideFrom)
	columns := []table.Column{{Title: "DRIVER"}, {Title: "PID"}, {Title: "UP"}, {Title: "VERSION", Least: 7}}
	if wide {
		columns = append(columns, table.Column{Title: "NOMAD"})
	}
	columns = append(columns, table.Column{Title: "CONFIG", Least: 6}, table.Column{Title: "AGENT"}, table.Column{Title: "TASKS"}, table.Column{Title: "TO REVOKE"})
	var rows [][]string
	for _, r := range all {
		agent := v.Paint("ok", text.FgGreen)
		switch {
		case r.Version == "": // it has not answered
			agent = v.Paint("?", text.FgRed)
		case !r.AgentGone.IsZero():
			agent = v.Paint("gone "+screen.Ago(v.now, r.AgentGone), text.FgRed)
		}
		revoke := 0
		for _, p := range r.Revocations {
			revoke += p.Leases + p.Tokens
		}
		row := []string{r.Driver, strconv.Itoa(r.PID), screen.Ago(v.now, r.Started), cmp.Or(r.Version, "-")}
		if wide {
			row = append(row, cmp.Or(r.Nomad, "-"))
		}
		rows = append(rows, append(row, cmp.Or(r.Config, "-"), agent, strconv.Itoa(len(r.Tasks)), strconv.Itoa(revoke)))
	}
	v.Tabulate(columns, rows)
}

func (v *statusView) secrets(all []control.Report) {
	wide := !v.Narrow(wideFrom)
	columns := []table.Column{{Title: "TASK", Least: 12}, {Title: "ALLOC"}, {Title: "SECRET", Least: 8}}
	if wide {
		columns = append(columns, table.Column{Title: "PATH", Least: 16})
	}
	columns = append(columns, table.Column{Title: "STATE"}, table.Column{Title: "NEXT"}, table.Column{Title: "ENDS"}, table.Column{Title: "CHANGED"})
	if wide {
		columns = append(columns, table.Column{Title: "WHY", Least: 12})
	}
	var rows [][]string
	for _, r := range all {
		for _, t := range r.Tasks {
			for _, s := range t.Secrets {
				row := []string{taskName(t.Job, t.Task), screen.ShortID(t.Alloc), screen.Clean(s.Name)}
				if wide {
					row = append(row, screen.Clean(s.Path))
				}
				row = append(row, v.state(t, s), v.next(s), v.ends(s), screen.Ago(v.now, s.Changed))
				if wide {
					row = append(row, cmp.Or(s.Cause, "-"))
				}
				rows = append(rows, row)
			}
		}
	}
	if len(rows) > 0 {
		v.Print("\n")
	}
	v.Tabulate(columns, rows)
}

func taskName(job, task string) string {
	if job == "" {
		return screen.Clean(task)
	}
	return screen.Clean(job + "/" + task)
}

func (v *statusView) state(t lifecycle.TaskStatus, s lifecycle.SecretStatus) string {
	word, colour := string(s.State), text.FgGreen
	switch {
	case t.State == lifecycle.TaskUnwatched:
		word, colour = string(t.State), text.FgRed
	case !s.State.OK():
		colour = text.FgRed
	case s.State != lifecycle.SecretReady:
		colour = text.FgYellow
	}
	return v.Paint(word, colour)
}

// next is what comes next, and when.
func (v *statusView) next(s lifecycle.SecretStatus) string {
	renews := !s.NextRenewal.IsZero()
	switch {
	case renews && (s.NextRotation.IsZero() || s.NextRenewal.Before(s.NextRotation)):
		return "renew " + screen.In(v.now, s.NextRenewal)
	case !s.NextRotation.IsZero():
		return "replace " + screen.In(v.now, s.NextRotation)
	}
	return "-"
}

func (v *statusView) ends(s lifecycle.SecretStatus) string {
	if !s.Expires.IsZero() && s.Expires.Before(v.now) {
		return v.Paint("over", text.FgRed)
	}
	return screen.In(v.now, s.Expires)
}

func (v *statusView) note(format string, args ...any) {
	v.notes = append(v.notes, fmt.Sprintf(format, args...))
}

// noteTrouble says what is wrong with one of all processes, and what to do.
func (v *statusView) noteTrouble(r control.Report, all []control.Report) {
	who := fmt.Sprintf("%s (process %d)", r.Driver, r.PID)
	if r.Problem != "" {
		v.note("%s: %s", who, screen.Clean(r.Problem))
	}
	if !r.AgentGone.IsZero() {
		v.note("%s: no agent is connected to it, since %s. %s", who, clock(r.AgentGone), withoutAgent(r, all))
	}
	v.noteOutages(who, r)
	for _, t := range r.Tasks {
		name := fmt.Sprintf("%s %s", taskName(t.Job, t.Task), screen.ShortID(t.Alloc))
		if t.LastError != nil && t.State != lifecycle.TaskWatched && t.State != lifecycle.TaskRotating {
			v.note("%s: %s: %s", name, t.State, screen.Clean(t.LastError.Text))
		} else if t.State == lifecycle.TaskUnwatched {
			v.note("%s: %s, because of an error in the plugin (the agent's log has it): restart the task", name, t.State)
		}
		for _, s := range t.Secrets {
			switch {
			case s.LastError == nil || s.State.OK() && s.State != lifecycle.SecretMissing:
			case s.LastError.At.IsZero():
				v.note("%s %s: %s: %s", name, screen.Clean(s.Name), s.State, screen.Clean(s.LastError.Text))
			default:
				v.note("%s %s: %s; last error %s ago: %s", name, screen.Clean(s.Name), s.State, screen.Ago(v.now, s.LastError.At), screen.Clean(s.LastError.Text))
			}
		}
	}
	for _, p := range r.Revocations {
		what := fmt.Sprintf("%s: to be revoked of %s %s since %s: %s, %s, %s", who, taskName(p.Job, p.Task), screen.ShortID(p.Alloc), clock(p.Since),
			screen.Counted(p.Leases, "lease"), screen.Counted(p.Tokens, "token"), screen.Counted(p.Attempts, "attempt"))
		if p.LastError != "" {
			what += ": " + screen.Clean(p.LastError)
		}
		v.note("%s", what)
	}
}

// withoutAgent is what to do about a process that has lost its agent: that depends on whether another has taken its place.
func withoutAgent(r control.Report, all []control.Report) string {
	for _, other := range all {
		if other.PID != r.PID && other.Driver == r.Driver && other.Version != "" && other.AgentGone.IsZero() {
			return fmt.Sprintf("Process %d serves %s for this node's agent, which will not take this one over. End this one once its tasks have ended (kill %d).", other.PID, r.Driver, r.PID)
		}
	}
	return "An agent that starts again takes it over."
}

// noteOutages says which servers are away, once for all tasks.
func (v *statusView) noteOutages(who string, r control.Report) {
	type outage struct {
		since, until time.Time
		tasks        int
	}
	all := map[string]outage{}
	for _, t := range r.Tasks {
		for _, o := range t.Outages {
			of := all[o.Provider]
			if of.tasks == 0 || o.Since.Before(of.since) {
				of.since = o.Since
			}
			if !o.ValidUntil.IsZero() && (of.until.IsZero() || o.ValidUntil.Before(of.until)) {
				of.until = o.ValidUntil
			}
			of.tasks++
			all[o.Provider] = of
		}
	}
	for _, provider := range slices.Sorted(maps.Keys(all)) {
		o := all[provider]
		valid := "its tasks keep their secrets"
		if !o.until.IsZero() {
			valid = "the first credential ends at " + clock(o.until)
		}
		server := provider
		if r.Server != "" && provider == secrets.DefaultProvider { // the only one with an address here
			server += " at " + r.Server
		}
		v.note("%s: no answer from %s since %s, for %s; %s", who, server, clock(o.since), screen.Counted(o.tasks, "task"), valid)
	}
}

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }
