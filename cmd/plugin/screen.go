package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/table"
)

// screen is where a command prints for people: a terminal of some width, or anything else, where lines are as long as
// they are and nothing has a colour.
type screen struct {
	out      io.Writer
	terminal bool
	width    int // of a terminal
	colours  bool
}

func screenOf(out io.Writer) screen {
	s := screen{out: out}
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	s.terminal, s.width = true, 80
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		s.width = w
	}
	s.colours = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return s
}

// narrow reports whether a line has less room than n characters.
func (s screen) narrow(n int) bool { return s.terminal && s.width < n }

func (s screen) print(text string) { _, _ = io.WriteString(s.out, text) }

// line prints a line, wrapped where the terminal ends; the lines after the first are indented.
func (s screen) line(line string) {
	if s.terminal {
		line = strings.ReplaceAll(text.WrapSoft(line, s.width-2), "\n", "\n  ")
	}
	s.print(line + "\n")
}

// tabulate prints rows. Where the terminal is too narrow for them, columns are cut.
func (s screen) tabulate(columns []table.Column, rows [][]string) {
	if len(rows) > 0 {
		s.print(table.Render(columns, rows, s.width))
	}
}

// paint gives a word a colour, on a terminal.
func (s screen) paint(word string, c text.Color) string {
	if !s.colours {
		return word
	}
	return c.EscapeSeq() + word + text.Reset.EscapeSeq()
}

// ago and in are how far away a moment is, in one word.
func ago(now, at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return short(now.Sub(at))
}

func in(now, at time.Time) string {
	switch {
	case at.IsZero():
		return "-"
	case at.Before(now):
		return "now"
	}
	return short(at.Sub(now))
}

func short(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// clean is what a job has named, fit for a terminal.
func clean(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, name)
}

// shortID is the part of an allocation's id that Nomad shows.
func shortID(alloc string) string {
	const shown = 8
	if len(alloc) > shown {
		return alloc[:shown]
	}
	return alloc
}
