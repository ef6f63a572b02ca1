// Package docs holds the documents, and the tests that keep them true.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

var (
	testFunc  = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	testName  = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)\\w+)`")
	testWord  = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*`)
	entry     = regexp.MustCompile(`(?m)^### ([SLCE]\d+): `)
	citation  = regexp.MustCompile(`\b[SLCE]\d{1,2}\b`)
	lineNotes = regexp.MustCompile(`(?m)//.*$`)
)

// Each guarantee has an entry with at least one test, and each test that the documents name exists.
func TestGuaranteesAreShown(t *testing.T) {
	text := read(t, "guarantees.md")
	at := entry.FindAllStringSubmatchIndex(text, -1)
	must.SliceNotEmpty(t, at)
	var numbers []string
	for i, m := range at {
		number := text[m[2]:m[3]]
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		body := text[m[0]:end]
		must.SliceNotContains(t, numbers, number)
		numbers = append(numbers, number)
		must.SliceNotEmpty(t, testName.FindAllString(body, -1), must.Sprintf("%s names no test", number))
		must.EqOp(t, 1, strings.Count(body, "**Tests:**"), must.Sprintf("%s lists its tests twice, or not at all", number))
		must.StrContains(t, body, "**Why:**", must.Sprintf("%s gives no reason", number))
	}
}

func TestNamedTestsExist(t *testing.T) {
	known := map[string]bool{}
	walkGo(t, func(path, source string) {
		if strings.HasSuffix(path, "_test.go") {
			for _, m := range testFunc.FindAllStringSubmatch(source, -1) {
				known[m[1]] = true
			}
		}
	})
	pages, err := filepath.Glob("*.md")
	must.NoError(t, err)
	for _, page := range append(pages, "../CONTRIBUTING.md") {
		for _, word := range quotedWords(read(t, page)) {
			if name := testWord.FindString(word); name != "" { // also in a command: '^TestX$'
				must.True(t, known[name], must.Sprintf("%s names %s, which is no test", page, name))
			}
		}
	}
}

// Each attack that was tried is shown by a test.
func TestAttacksAreShown(t *testing.T) {
	for line := range strings.Lines(read(t, "attacks.md")) {
		if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| attack |") && !strings.HasPrefix(line, "| ---") {
			must.RegexMatch(t, testName, line)
		}
	}
}

// No comment cites a number that has no entry.
func TestCitationsHaveAnEntry(t *testing.T) {
	var known []string
	for _, m := range entry.FindAllStringSubmatch(read(t, "guarantees.md"), -1) {
		known = append(known, m[1])
	}
	walkGo(t, func(path, source string) {
		for _, note := range lineNotes.FindAllString(source, -1) {
			for _, number := range citation.FindAllString(note, -1) {
				must.True(t, slices.Contains(known, number), must.Sprintf("%s cites %s, which is not in guarantees.md: %s", path, number, note))
			}
		}
	})
}

var heading = regexp.MustCompile(`(README|CONTRIBUTING|docs/\w+\.md), "([^"\n]+)"`)

// A comment cites a guarantee, or a page of the repository's by its heading; never a page that is not here.
func TestCitedPagesAreHere(t *testing.T) {
	const notHere = "DESI" + "GN"
	for path, text := range texts(t) {
		must.StrNotContains(t, text, notHere, must.Sprintf("%s cites a page that is not in the repository", path))
	}
	cited := 0
	walkGo(t, func(path, source string) {
		for _, note := range lineNotes.FindAllString(source, -1) {
			for _, m := range heading.FindAllStringSubmatch(note, -1) {
				page, title := "../"+strings.TrimSuffix(m[1], ".md")+".md", regexp.QuoteMeta(m[2])
				must.RegexMatch(t, regexp.MustCompile(`(?m)^(#+ `+title+`$|\*\*`+title+`\b)`), read(t, page), must.Sprint(path, " cites ", note))
				cited++
			}
		}
	})
	must.Positive(t, cited)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must.NoError(t, err)
	return string(b)
}

// walkGo calls fn with each Go file of the repository.
func walkGo(t *testing.T, fn func(path, source string)) {
	t.Helper()
	must.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin"):
			return fs.SkipDir
		case filepath.Ext(path) == ".go":
			fn(path, read(t, path))
		}
		return nil
	}))
}
