package audit

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
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
func Write(w io.Writer, r Report, colour bool) error {
	p := &printer{w: w}
	plugin := 0
	for _, t := range r.Tasks {
		if t.Plugin {
			plugin++
		}
	}
	p.line("looked for %d values of %d tasks (%d with this plugin's secrets, %d with others) in %d places, %d MiB",
		r.Values, len(r.Tasks), plugin, len(r.Tasks)-plugin, r.Places, r.Bytes>>20)
	for i, l := range r.Leaks {
		if i == maxLines {
			p.line("and %d more; -json lists them", len(r.Leaks)-maxLines)
			break
		}
		word := "LEAK"
		if colour {
			word = "\x1b[31mLEAK\x1b[0m"
		}
		p.line("%s  %s", word, describe(l))
	}
	p.skipped(r)
	for _, e := range r.Errors {
		p.line("not looked at: %s", e)
	}
	p.line("%s", conclusion(r))
	return p.err
}

func describe(l Leak) string {
	alloc := l.Alloc
	if len(alloc) > 8 {
		alloc = alloc[:8]
	}
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
	return fmt.Sprintf("task %s, alloc %s, driver %s, %s: %s is in %s: %s (%s%s)", printable(l.Name), printable(alloc), name, by, l.Value, l.Where, l.Place, l.Form, times)
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
	return fmt.Sprintf("found: %d values of this plugin's, %d that Nomad put there", ours, others)
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if _, err := fmt.Fprintf(p.w, format+"\n", args...); err != nil && p.err == nil {
		p.err = err
	}
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
			p.line("not looked for: %d values, %s", of.n, of.why)
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
