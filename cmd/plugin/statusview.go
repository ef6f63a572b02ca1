package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/table"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/control"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// statusView is how status shows things to people: a table of plugin processes, one of secrets, and below them what is wrong.
type statusView struct {
	screen
	now   time.Time
	notes []string
}

// wideFrom is how wide a terminal has to be for the path and the cause of the last change.
const wideFrom = 120

func (v *statusView) show(all []control.Report) {
	v.plugins(all)
	v.secrets(all)
	for _, r := range all {
		v.noteTrouble(r)
	}
	if len(v.notes) > 0 {
		v.print("\n")
	}
	for _, note := range v.notes {
		v.line(note)
	}
}

func (v *statusView) plugins(all []control.Report) {
	columns := []table.Column{{Title: "DRIVER"}, {Title: "PID"}, {Title: "UP"}, {Title: "VERSION"}, {Title: "NOMAD"}, {Title: "CONFIG"}, {Title: "AGENT"}, {Title: "TASKS"}, {Title: "TO REVOKE"}}
	var rows [][]string
	for _, r := range all {
		agent := v.paint("ok", text.FgGreen)
		switch {
		case r.Version == "": // it has not answered
			agent = v.paint("?", text.FgRed)
		case !r.AgentGone.IsZero():
			agent = v.paint("gone "+ago(v.now, r.AgentGone), text.FgRed)
		}
		revoke := 0
		for _, p := range r.Revocations {
			revoke += p.Leases + p.Tokens
		}
		rows = append(rows, []string{
			r.Driver, strconv.Itoa(r.PID), ago(v.now, r.Started), cmp.Or(r.Version, "-"), cmp.Or(r.Nomad, "-"), cmp.Or(r.Config, "-"), agent,
			strconv.Itoa(len(r.Tasks)), strconv.Itoa(revoke),
		})
	}
	v.tabulate(columns, rows)
}

func (v *statusView) secrets(all []control.Report) {
	wide := !v.narrow(wideFrom)
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
				row := []string{taskName(t.Job, t.Task), shortID(t.Alloc), clean(s.Name)}
				if wide {
					row = append(row, clean(s.Path))
				}
				row = append(row, v.state(t, s), v.next(s), v.ends(s), ago(v.now, s.Changed))
				if wide {
					row = append(row, cmp.Or(s.Cause, "-"))
				}
				rows = append(rows, row)
			}
		}
	}
	if len(rows) > 0 {
		v.print("\n")
	}
	v.tabulate(columns, rows)
}

func taskName(job, task string) string {
	if job == "" {
		return clean(task)
	}
	return clean(job + "/" + task)
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
	return v.paint(word, colour)
}

// next is what comes next, and when.
func (v *statusView) next(s lifecycle.SecretStatus) string {
	renews := !s.NextRenewal.IsZero()
	switch {
	case renews && (s.NextRotation.IsZero() || s.NextRenewal.Before(s.NextRotation)):
		return "renew " + in(v.now, s.NextRenewal)
	case !s.NextRotation.IsZero():
		return "replace " + in(v.now, s.NextRotation)
	}
	return "-"
}

func (v *statusView) ends(s lifecycle.SecretStatus) string {
	if !s.Expires.IsZero() && s.Expires.Before(v.now) {
		return v.paint("over", text.FgRed)
	}
	return in(v.now, s.Expires)
}

func (v *statusView) note(format string, args ...any) {
	v.notes = append(v.notes, fmt.Sprintf(format, args...))
}

// noteTrouble says what is wrong, and what to do.
func (v *statusView) noteTrouble(r control.Report) {
	who := fmt.Sprintf("%s (process %d)", r.Driver, r.PID)
	if r.Problem != "" {
		v.note("%s: %s", who, clean(r.Problem))
	}
	if !r.AgentGone.IsZero() {
		v.note("%s: no agent is connected to it, since %s. An agent that starts again takes it over; if another process serves %s on this node, end this one.",
			who, clock(r.AgentGone), r.Driver)
	}
	v.noteOutages(who, r)
	for _, t := range r.Tasks {
		name := fmt.Sprintf("%s %s", taskName(t.Job, t.Task), shortID(t.Alloc))
		if t.LastError != nil && t.State != lifecycle.TaskWatched && t.State != lifecycle.TaskRotating {
			v.note("%s: %s: %s", name, t.State, clean(t.LastError.Text))
		} else if t.State == lifecycle.TaskUnwatched {
			v.note("%s: %s, because of an error in the plugin (the agent's log has it): restart the task", name, t.State)
		}
		for _, s := range t.Secrets {
			switch {
			case s.LastError == nil || s.State.OK() && s.State != lifecycle.SecretMissing:
			case s.LastError.At.IsZero():
				v.note("%s %s: %s: %s", name, clean(s.Name), s.State, clean(s.LastError.Text))
			default:
				v.note("%s %s: %s; last error %s ago: %s", name, clean(s.Name), s.State, ago(v.now, s.LastError.At), clean(s.LastError.Text))
			}
		}
	}
	for _, p := range r.Revocations {
		what := fmt.Sprintf("%s: to be revoked of %s %s since %s: %d leases, %d tokens, %d attempts", who, taskName(p.Job, p.Task), shortID(p.Alloc), clock(p.Since), p.Leases, p.Tokens, p.Attempts)
		if p.LastError != "" {
			what += ": " + clean(p.LastError)
		}
		v.note("%s", what)
	}
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
		v.note("%s: no answer from %s since %s, for %d tasks; %s", who, server, clock(o.since), o.tasks, valid)
	}
}

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }
