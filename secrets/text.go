package secrets

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Bounds of what is said to an operator (S8): Nomad keeps events and errors in its Raft log.
const (
	maxText    = 2 << 10 // one error or event
	maxNames   = 20      // of a list in it
	maxName    = 80      // one name of a list
	maxList    = 1000    // the whole list
	maxProblem = 600     // one of several problems in an error
)

// Shorten cuts a text to what an event or an error may come to, and says that it did.
func Shorten(text string) string { return Cut(text, maxText) }

// OneLine is text without its line breaks, and with single spaces.
func OneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// Cut is text in at most limit bytes, "…" included.
func Cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	const more = "…"
	end := limit - len(more)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}

// ShortError is err with a text of at most what an error may come to. What it wraps stays.
func ShortError(err error) error {
	if err == nil || len(err.Error()) <= maxText {
		return err
	}
	return &shortError{Shorten(err.Error()), err}
}

type shortError struct {
	text string
	err  error
}

func (e *shortError) Error() string { return e.text }
func (e *shortError) Unwrap() error { return e.err }

// listOf is a list for an error or an event: the first twenty of all, and how many more there are.
func listOf(first []string, all int, sep string) string {
	var b strings.Builder
	for i, name := range first {
		name = Cut(name, maxName)
		if i == maxNames || b.Len()+len(sep)+len(name) > maxList {
			first = first[:i]
			break
		}
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(name)
	}
	if rest := all - len(first); rest > 0 {
		fmt.Fprintf(&b, "%sand %d more", sep, rest)
	}
	return b.String()
}

// errMore stands for the problems that were not kept.
var errMore = errors.New("there is more that is wrong: it shows once this is repaired")

// problems are what is wrong with one task: the first of them are kept. The zero value has none.
type problems struct {
	kept []error
	more bool
}

func (p *problems) add(err error) {
	if len(p.kept) == maxNames {
		p.more = true
		return
	}
	p.kept = append(p.kept, err)
}

// join is one error of all, a line each, within what an error may come to; nil if there are none.
func (p *problems) join() error {
	if len(p.kept) == 0 {
		return nil
	}
	const andMore = "\nand more"
	limit := maxProblem
	if len(p.kept) == 1 {
		limit = maxText
	}
	var b strings.Builder
	told := 0
	for _, err := range p.kept {
		line := Cut(err.Error(), limit)
		if told > 0 {
			if b.Len()+1+len(line) > maxText-len(andMore) {
				break
			}
			b.WriteByte('\n')
		}
		b.WriteString(line)
		told++
	}
	if p.more || told < len(p.kept) {
		b.WriteString(andMore)
	}
	all := p.kept
	if p.more {
		all = append(slices.Clone(all), errMore)
	}
	return &shortError{b.String(), errors.Join(all...)}
}

// FormatSize is a number of bytes in KiB or MiB, rounded up.
func FormatSize(n uint64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%d KiB", (n+1023)>>10)
	}
	return fmt.Sprintf("%d MiB", (n+1<<20-1)>>20)
}
