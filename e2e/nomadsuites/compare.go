package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// documented are the tests that see what docs/differences.md has under "Differences from the wrapped drivers", or the node attributes. They are to fail with
// ours, and with the wrapped driver to pass.
var documented = map[string]string{
	"TestRawExecDriver_Fingerprint/Enabled": "the node attributes driver.raw_exec.secrets…",
}

// outcomes is how each test of a run ended, by its name: pass, fail, skip, or unfinished.
type outcomes map[string]string

const unfinished = "unfinished"

// readRuns reads the first run of a suite with a driver, and of those that were run once more, again, the second.
func readRuns(dir, name string) (all outcomes, again []string, err error) {
	if all, err = readRun(filepath.Join(dir, name+".first.json")); err != nil {
		return nil, nil, err
	}
	second, err := readRun(filepath.Join(dir, name+".second.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil, nil
	}
	return all, all.replace(second), err
}

// replace takes what ended anew, with all its parts.
func (o outcomes) replace(by outcomes) (whole []string) {
	for _, test := range slices.Sorted(maps.Keys(by)) {
		if strings.Contains(test, "/") {
			continue
		}
		whole = append(whole, test)
		maps.DeleteFunc(o, func(old, _ string) bool { return old == test || strings.HasPrefix(old, test+"/") })
	}
	maps.Copy(o, by)
	return whole
}

// readRun reads what test2json has written.
func readRun(path string) (outcomes, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	o, err := parse(file)
	if err == nil && len(o) == 0 {
		err = errors.New("no test was run")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return o, nil
}

func parse(from io.Reader) (outcomes, error) {
	o := outcomes{}
	lines := bufio.NewReader(from)
	for dec := json.NewDecoder(lines); ; {
		var line struct{ Action, Test string }
		if err := dec.Decode(&line); err == io.EOF {
			return o, nil
		} else if err != nil {
			return nil, err
		}
		switch {
		case line.Test == "":
		case line.Action == "run":
			o[line.Test] = unfinished
		case line.Action == "pass", line.Action == "fail", line.Action == "skip":
			o[line.Test] = line.Action
		}
	}
}

// difference is a test that did not end alike.
type difference struct{ test, wrapped, ours, why string }

// comparison is of one suite. A test is each that ran, the parts of others among them.
type comparison struct {
	alike     map[string][]string // by how they ended
	expected  []difference
	differing []difference
	again     []string // tests that differed when they were run first
}

// pattern is the tests that differ, for -test.run; empty: none.
func (c comparison) pattern() string {
	var names []string
	for _, d := range c.differing {
		name, _, _ := strings.Cut(d.test, "/")
		names = append(names, name)
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return "^(" + strings.Join(slices.Compact(names), "|") + ")$"
}

func compare(wrapped, ours outcomes, documented map[string]string) comparison {
	c := comparison{alike: map[string][]string{}}
	all := maps.Clone(wrapped)
	maps.Copy(all, ours)
	// The parts of a test come after it: backwards, what its parts did is known.
	explained := map[string]bool{}
	for _, test := range slices.Backward(slices.Sorted(maps.Keys(all))) {
		d := difference{test: test, wrapped: end(wrapped, test), ours: end(ours, test)}
		d.why = documented[test]
		switch {
		case d.wrapped == d.ours && d.why == "":
			c.alike[d.ours] = append(c.alike[d.ours], test)
		case d.wrapped == "pass" && d.ours == "fail" && (d.why != "" || explained[test]):
			if at := strings.LastIndexByte(test, '/'); at > 0 {
				explained[test[:at]] = true
			}
			if d.why != "" {
				c.expected = append(c.expected, d)
			}
		default:
			if d.why != "" {
				d.why = "documented otherwise: " + d.why
			}
			c.differing = append(c.differing, d)
		}
	}
	return c
}

func end(o outcomes, test string) string {
	if e, ok := o[test]; ok {
		return e
	}
	return "not run"
}

func (c comparison) write(out io.Writer, suite string) {
	total := len(c.expected) + len(c.differing)
	for _, tests := range c.alike {
		total += len(tests)
	}
	fmt.Fprintf(out, "%s: %d tests and parts of tests; with both %d passed, %d failed, %d were skipped; %d differ as documented, %d otherwise\n", suite, total,
		len(c.alike["pass"]), len(c.alike["fail"]), len(c.alike["skip"]), len(c.expected), len(c.differing))
	for _, e := range []string{"fail", unfinished} {
		for _, test := range slices.Backward(c.alike[e]) {
			fmt.Fprintf(out, "  %s with both: %s\n", e, test)
		}
	}
	for _, test := range c.again {
		fmt.Fprintf(out, "  differed at first, and was run once more: %s\n", test)
	}
	for _, d := range c.expected {
		fmt.Fprintf(out, "  differs as documented: %s: %s\n", d.test, d.why)
	}
	for _, d := range c.differing {
		fmt.Fprintf(out, "  DIFFERS: %s: %s with the wrapped driver, %s with ours %s\n", d.test, d.wrapped, d.ours, d.why)
	}
}
