package leakscan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Canary is a value to look for, and the name to report it by.
type Canary struct{ Name, Value string }

// Format keeps the value out of whatever is printed.
func (c Canary) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "canary "+c.Name) }

// Hit is a value that was found.
type Hit struct {
	Canary string // its name
	Form   string
	Source string // the source's name
	Place  string // a file, a command, a URL, a process
	Offset int64  // of the first; -1 in the place's own name
	Count  int
}

func (h Hit) String() string {
	return fmt.Sprintf("%s: %s as %s in %s at byte %d (%d times)", h.Source, h.Canary, h.Form, h.Place, h.Offset, h.Count)
}

// Report is what a scan found, and what it looked at.
type Report struct {
	Hits    []Hit
	Places  map[string]int   // by source: how many places were read
	Bytes   map[string]int64 // by source: how much was read
	Skipped []string         // mounts and files that sources were told to leave out
	// More is how many hits and skipped places there were beyond those that are listed (maxListed of each).
	More int
}

// maxListed bounds a report: whoever can write where is looked can make any number of hits.
const maxListed = 10_000

// Source is something that can be searched.
type Source struct {
	Name string
	// read gives each of the source's places to visit. Its error says what could not be read.
	read func(ctx context.Context, v *visitor) error
}

// Scanner searches for canaries.
type Scanner struct {
	canaries []Canary
	patterns []pattern
	automaton
}

type pattern struct {
	canary int
	form   string
}

// New makes a scanner. A value must have at least MinValue bytes: shorter ones are found by chance.
func New(canaries ...Canary) (*Scanner, error) {
	s := &Scanner{canaries: canaries}
	var texts [][]byte
	for i, c := range canaries {
		if len(c.Value) < MinValue {
			return nil, fmt.Errorf("canary %s: its value has fewer than %d bytes, and would be found by chance", c.Name, MinValue)
		}
		for _, f := range formsOf(c.Value) {
			s.patterns = append(s.patterns, pattern{i, f.name})
			texts = append(texts, f.text)
		}
	}
	s.automaton = *newAutomaton(texts)
	return s, nil
}

// Split groups canaries so that a scanner of each group takes no more than some 64 MiB.
func Split(canaries []Canary) [][]Canary {
	const most = 2 << 20 // bytes of patterns
	var groups [][]Canary
	size := most + 1
	for _, c := range canaries {
		of := 0
		for _, f := range formsOf(c.Value) {
			of += len(f.text)
		}
		if size+of > most {
			groups = append(groups, nil)
			size = 0
		}
		last := len(groups) - 1
		groups[last] = append(groups[last], c)
		size += of
	}
	return groups
}

// Scan searches the sources, one after another. The report is of all that could be read, also where
// there is an error.
func (s *Scanner) Scan(ctx context.Context, sources ...Source) (Report, error) {
	report := Report{Places: map[string]int{}, Bytes: map[string]int64{}}
	var errs []error
	for _, source := range sources {
		v := &visitor{scanner: s, report: &report, source: source.Name}
		if err := source.read(ctx, v); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", source.Name, err))
		}
		if ctx.Err() != nil {
			return report, errors.Join(append(errs, ctx.Err())...)
		}
	}
	return report, errors.Join(errs...)
}

// visitor is a source's way to the scanner.
type visitor struct {
	scanner *Scanner
	report  *Report
	source  string
	buffer  []byte
	files   func(place string, content io.Reader) error // instead of a search; nil: search
}

// visit searches one place: its content, and its name.
func (v *visitor) visit(place string, content io.Reader) error {
	if v.files != nil {
		return v.files(place, content)
	}
	hits := map[int]*Hit{} // by pattern
	var order []int
	at := func(id int, offset int64) {
		if h := hits[id]; h != nil {
			h.Count++
			return
		}
		p := v.scanner.patterns[id]
		hits[id] = &Hit{Canary: v.scanner.canaries[p.canary].Name, Form: p.form, Source: v.source, Offset: offset, Count: 1}
		order = append(order, id)
	}
	inName := &search{automaton: &v.scanner.automaton, found: func(id int, _ int64) { at(id, -1) }}
	_, _ = io.WriteString(inName, place)
	if len(hits) > 0 {
		place = v.scanner.redact(place)
	}
	inContent := &search{automaton: &v.scanner.automaton, found: at}
	if v.buffer == nil {
		v.buffer = make([]byte, 256<<10)
	}
	n, err := io.CopyBuffer(inContent, onlyReader{content}, v.buffer)
	v.report.Places[v.source]++
	v.report.Bytes[v.source] += n
	for _, id := range order {
		if len(v.report.Hits) >= maxListed {
			v.report.More++
			continue
		}
		hits[id].Place = place
		v.report.Hits = append(v.report.Hits, *hits[id])
	}
	return err
}

// onlyReader hides a reader's WriterTo, which would have it choose the size of what it writes.
type onlyReader struct{ io.Reader }

// skip notes what a source was told to leave out.
func (v *visitor) skip(what string) {
	if len(v.report.Skipped) >= maxListed {
		v.report.More++
		return
	}
	v.report.Skipped = append(v.report.Skipped, v.scanner.redact(what))
}

// redact takes every canary out of a place's name.
func (s *Scanner) redact(place string) string {
	for _, c := range s.canaries {
		for _, f := range formsOf(c.Value) {
			place = strings.ReplaceAll(place, string(f.text), "["+c.Name+"]")
		}
	}
	return place
}
