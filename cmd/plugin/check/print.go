package check

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
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
		p.linef("%s: %s", r.File, counted(r.Errors(), "error"))
	case len(r.Tasks) == 0 && len(r.Findings) == 0:
		p.linef("Job %q: no task has secrets.", r.Job)
	default:
		p.linef("Job %q: %s, %s.", r.Job, counted(r.Errors(), "error"), counted(r.Warnings(), "warning"))
	}
	return p.err
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
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
	rows := [][]string{{"SECRET", "PATH", "ENV", "FILES", "ON CHANGE"}}
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
	if len(rows) > 1 {
		p.table(rows)
	}
}

// shares are how much of a terminal's width each column has, of 100. What one does not need the others have.
var shares = []int{15, 27, 22, 22, 14}

// table writes rows in columns. On a terminal cells are broken to fit.
func (p *printer) table(rows [][]string) {
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	for _, row := range broken(rows, p.style.Width) {
		if _, err := fmt.Fprintln(t, strings.TrimRight(strings.Join(row, "\t"), "\t")); p.err == nil {
			p.err = err
		}
	}
	if err := t.Flush(); p.err == nil {
		p.err = err
	}
}

// broken gives rows whose cells fit a terminal: one row becomes several.
func broken(rows [][]string, width int) (out [][]string) {
	columns := len(rows[0])
	widths := make([]int, columns)
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	if width > 0 {
		fit(widths, width-2*(columns-1))
	}
	for _, row := range rows {
		var lines [][]string
		for i, cell := range row {
			for n, part := range breakText(cell, widths[i]) {
				if n == len(lines) {
					lines = append(lines, make([]string, columns))
				}
				lines[n][i] = part
			}
		}
		out = append(out, lines...)
	}
	return out
}

// fit narrows columns until their sum is within room: none below its share.
func fit(widths []int, room int) {
	for {
		sum, widest := 0, -1
		for i, w := range widths {
			sum += w
			if w > max(8, room*shares[i]/100) && (widest < 0 || w-room*shares[i]/100 > widths[widest]-room*shares[widest]/100) {
				widest = i
			}
		}
		if sum <= room || widest < 0 {
			return
		}
		widths[widest]--
	}
}

// breakText breaks a text into lines of at most width runes: after a comma, a space or a slash where there is one.
func breakText(text string, width int) (lines []string) {
	for utf8.RuneCountInString(text) > width && width > 0 {
		runes := []rune(text)
		end := width
		for i := width; i > width/3; i-- {
			if strings.ContainsRune(", /_", runes[i-1]) {
				end = i
				break
			}
		}
		lines = append(lines, strings.TrimRight(string(runes[:end]), " "))
		text = strings.TrimLeft(string(runes[end:]), " ")
	}
	return append(lines, text)
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
