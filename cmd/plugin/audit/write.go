package audit

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
)

// printable is a text without what a terminal would act upon: tasks choose the names of their files.
func printable(text string) string {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// maxLines bounds what is listed for people; -json has all.
const maxLines = 200

// Write prints a report.
func Write(s screen.Screen, r Report) error {
	p := &printer{screen: s}
	plugin := 0
	for _, t := range r.Tasks {
		if t.Plugin {
			plugin++
		}
	}
	p.line("looked for %s of %s (%d with this plugin's secrets, %d with others) in %s, %d MiB",
		screen.Counted(r.Values, "value"), screen.Counted(len(r.Tasks), "task"), plugin, len(r.Tasks)-plugin, screen.Counted(r.Places, "place"), r.Bytes>>20)
	for i, l := range r.Leaks {
		if i == maxLines {
			p.line("and %d more; -json lists them", len(r.Leaks)-maxLines)
			break
		}
		p.text.WriteString(s.Wrap(s.Paint("LEAK", text.FgRed)+"  ", len("LEAK  "), describe(l)))
	}
	p.skipped(r)
	for _, e := range r.Errors {
		p.line("not looked at: %s", e)
	}
	p.line("%s", conclusion(r))
	_, err := io.WriteString(s.Out, p.text.String())
	return err
}

func describe(l Leak) string {
	by := "put there by Nomad"
	if l.Plugin {
		by = "this plugin's"
	}
	name := l.Driver
	if name == "" {
		name = "unknown"
	}
	times := ""
	if l.Count > 1 {
		times = fmt.Sprintf(", %d times", l.Count)
	}
	return fmt.Sprintf("task %s, alloc %s, driver %s, %s: %s is in %s: %s (%s%s)", printable(l.Name), printable(screen.ShortID(l.Alloc)), name, by, l.Value, l.Where, l.Place, l.Form, times)
}

// conclusion says how many values of whose were found.
func conclusion(r Report) string {
	found := map[bool]map[string]bool{true: {}, false: {}}
	for _, l := range r.Leaks {
		found[l.Plugin][l.Alloc+"\x00"+l.Name+"\x00"+l.Value] = true
	}
	ours, others := len(found[true]), len(found[false])
	switch {
	case ours+others == 0 && len(r.Errors) > 0:
		return "nothing was found, but not all could be looked at"
	case ours+others == 0:
		return "nothing was found"
	}
	return fmt.Sprintf("found: %s of this plugin's, %d that Nomad put there", screen.Counted(ours, "value"), others)
}

type printer struct {
	screen screen.Screen
	text   strings.Builder
}

func (p *printer) line(format string, args ...any) {
	p.text.WriteString(p.screen.Wrap("", 2, fmt.Sprintf(format, args...)))
}

// skipped says what was left out on purpose.
func (p *printer) skipped(r Report) {
	n := r.NotLookedFor
	for _, of := range []struct {
		n   int
		why string
	}{
		{n.Short, "shorter than 8 bytes"}, {n.Ordinary, "ordinary text"}, {n.Public, "certificates"}, {n.TooMany, "beyond the limits of one audit"},
	} {
		if of.n > 0 {
			p.line("not looked for: %s, %s", screen.Counted(of.n, "value"), of.why)
		}
	}
	const few = 5
	for i, place := range r.NotLookedAt {
		if i == few {
			p.line("left out: %d more; -json lists them", len(r.NotLookedAt)-few)
			break
		}
		p.line("left out: %s", place)
	}
	if r.More > 0 {
		p.line("there are %d more places than could be listed", r.More)
	}
}
