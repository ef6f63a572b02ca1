package check

import (
	"fmt"
	"io"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/table"
)

// Style is how a report is shown.
type Style struct {
	// Width of the terminal; 0: it is none, and no line is broken.
	Width int
	Color bool
}

// Print writes a report for people.
func (r *Report) Print(w io.Writer, style Style) error {
	p := &printer{w: w, style: style}
	for i, t := range r.Tasks {
		if i > 0 {
			p.linef("")
		}
		p.task(t)
	}
	if len(r.Tasks) > 0 {
		p.linef("")
	}
	if r.Rights != "" {
		p.linef("Judged by the rights of %s, which need not be the task's.", r.Rights)
		p.linef("")
	}
	for _, f := range r.Findings {
		p.finding(f)
	}
	if len(r.Findings) > 0 {
		p.linef("")
	}
	switch {
	case r.Job == "":
		p.linef("%s: %s", r.File, screen.Counted(r.Errors(), "error"))
	case len(r.Tasks) == 0 && len(r.Findings) == 0:
		p.linef("Job %q: no task has secrets.", r.Job)
	default:
		p.linef("Job %q: %s, %s.", r.Job, screen.Counted(r.Errors(), "error"), screen.Counted(r.Warnings(), "warning"))
	}
	return p.err
}

type printer struct {
	w     io.Writer
	style Style
	err   error
}

func (p *printer) linef(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// task writes a task's table.
func (p *printer) task(t Task) {
	p.linef("Task %q of group %q, driver %s", t.Name, t.Group, t.Driver)
	if t.Identity != "" {
		p.linef("Reads with: %s", t.Identity)
	}
	if t.FromPolicies != "" && t.FromPolicies != "off" {
		p.linef("And what the task's policies grant: from_policies = %q", t.FromPolicies)
	}
	var rows [][]string
	for _, s := range t.Secrets {
		files := s.Files
		if s.LiveDir != "" {
			files = append(files[:len(files):len(files)], s.LiveDir+" (live)")
		}
		name, path := s.Name, s.Path
		if !s.Required {
			name += " (optional)"
		}
		if s.Provider != "vault" {
			path = s.Provider + ": " + path
		}
		if s.Mount != "" {
			path += " (" + s.Mount + ")"
		}
		rows = append(rows, []string{name, path, strings.Join(s.Env, ", "), strings.Join(files, ", "), s.Change})
	}
	for _, f := range t.Files {
		rows = append(rows, []string{"(several)", "", "", f, ""})
	}
	if len(rows) > 0 {
		p.table(rows)
	}
}

// columns are those of a task's table, and how much of a terminal's width each has, of 100. What one does not need the
// others have.
var columns = []struct {
	title string
	share int
}{{"SECRET", 15}, {"PATH", 27}, {"ENV", 22}, {"FILES", 22}, {"ON CHANGE", 14}}

// table writes rows in columns. On a terminal cells are broken to fit.
func (p *printer) table(rows [][]string) {
	const least = 8
	room := p.style.Width - table.Gap*(len(columns)-1)
	all := make([]table.Column, len(columns))
	for i, c := range columns {
		all[i] = table.Column{Title: c.title, Least: max(least, room*c.share/100), Wrap: true}
	}
	if p.err == nil {
		_, p.err = io.WriteString(p.w, table.Render(all, rows, p.style.Width))
	}
}

// finding writes one finding on one line, as compilers do: editors find the place.
func (p *printer) finding(f Finding) {
	severity := string(f.Severity)
	if p.style.Color {
		color := "33"
		if f.Severity == Error {
			color = "31"
		}
		severity = "\x1b[" + color + "m" + severity + "\x1b[0m"
	}
	place := ""
	if f.Task != "" {
		place = fmt.Sprintf("task %q: ", f.Task)
	}
	p.linef("%s: %s: %s%s", f.At, severity, place, f.Text)
}
