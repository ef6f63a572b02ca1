// Package screen is where the commands print for people: it has lines fit a terminal, and colours only there.
package screen

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

// Screen is a terminal of some width, or anything else, where lines are as long as they are and nothing has a colour.
type Screen struct {
	Out      io.Writer
	Terminal bool
	Width    int // of a terminal
	Colours  bool
}

// Of is the screen of an output.
func Of(out io.Writer) Screen {
	s := Screen{Out: out}
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	s.Terminal, s.Width = true, 80
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		s.Width = w
	}
	s.Colours = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return s
}

// Narrow reports whether a line has less room than n characters.
func (s Screen) Narrow(n int) bool { return s.Terminal && s.Width < n }

// Print prints a text as it is.
func (s Screen) Print(text string) { _, _ = io.WriteString(s.Out, text) }

// Line prints a line, wrapped where the terminal ends.
func (s Screen) Line(line string) { s.Print(s.Wrap("", 2, line)) }

// Wrap is a line with a head that is not wrapped, and with its end. Where the terminal ends it goes on in the next line, which is
// indented.
func (s Screen) Wrap(head string, indent int, line string) string {
	if s.Terminal {
		room := max(minRoom, s.Width-max(indent, text.StringWidthWithoutEscSequences(head)))
		lines := strings.Split(text.WrapSoft(line, room), "\n")
		for i := range lines {
			lines[i] = strings.TrimRight(lines[i], " ") // it fills them up
		}
		line = strings.Join(lines, "\n"+strings.Repeat(" ", indent))
	}
	return head + line + "\n"
}

// minRoom is what a line has of any terminal.
const minRoom = 20

// Tabulate prints rows. Where the terminal is too narrow for them, columns are cut.
func (s Screen) Tabulate(columns []table.Column, rows [][]string) {
	if len(rows) > 0 {
		s.Print(table.Render(columns, rows, s.Width))
	}
}

// Paint gives a word a colour, on a terminal.
func (s Screen) Paint(word string, c text.Color) string {
	if !s.Colours {
		return word
	}
	return c.EscapeSeq() + word + text.Reset.EscapeSeq()
}

// Ago is how long ago a moment is, in one word.
func Ago(now, at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return short(now.Sub(at))
}

// In is how far away a moment to come is, in one word.
func In(now, at time.Time) string {
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

// Clean is what a job has named, fit for a terminal.
func Clean(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, name)
}

// ShortID is the part of an allocation's id that Nomad shows.
func ShortID(alloc string) string {
	const shown = 8
	if len(alloc) > shown {
		return alloc[:shown]
	}
	return alloc
}

// Counted is a number of things: "1 task", "2 tasks".
func Counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
