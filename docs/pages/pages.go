// Package pages finds the commands of the documents, and what a test does with them.
//
// A block of commands has a comment before it. `run: NAME` names a set-up of e2e's TestDocuments, which runs the block as it is; after a comma
// there may be `twice` (it may be given again), `and stays` (it runs until the end), `until it succeeds` and `until it prints TEXT`. `run by TestX`
// names another test, which reads the page, and `not run: WHY` says why none can. `file: NAME` is before a file that later commands read.
package pages

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Block is a fenced block of a page.
type Block struct {
	Page string // from the root of the repository
	Line int
	Lang string
	Text string
	Mark string // the comment before it, if there is one
}

// Where says where a block is, for errors.
func (b Block) Where() string { return fmt.Sprintf("%s:%d", b.Page, b.Line) }

// SetUp is the name of a `run: NAME` mark, and how the block is to be run.
func (b Block) SetUp() (name, how string) {
	said, ok := strings.CutPrefix(b.Mark, "run: ")
	if !ok {
		return "", ""
	}
	name, how, _ = strings.Cut(said, ", ")
	return name, how
}

var (
	fence = regexp.MustCompile("^( *)```(\\w*)$")
	mark  = regexp.MustCompile(`^ *<!-- (.*) -->$`)
)

// Of are the blocks of a page, in order. What a list has indented is not.
func Of(root, page string) (blocks []Block, err error) {
	content, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return nil, err
	}
	var open *Block
	indent, said := "", ""
	for i, line := range strings.Split(string(content), "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case open != nil && m != nil && m[1] == indent:
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			open.Text += strings.TrimPrefix(line, indent) + "\n"
		case m != nil:
			open = &Block{Page: page, Line: i + 1, Lang: m[2], Mark: said}
			indent = m[1]
		}
		said = ""
		if m := mark.FindStringSubmatch(line); m != nil {
			said = m[1]
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s has no end", open.Where())
	}
	return blocks, nil
}

// All are the blocks of the pages for users: README first, then docs/ by name, then the examples' README.
func All(root string) (blocks []Block, err error) {
	docs, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil {
		return nil, err
	}
	list := []string{"README.md"}
	for _, path := range docs {
		list = append(list, "docs/"+filepath.Base(path))
	}
	for _, page := range append(list, "jobs/README.md") {
		of, err := Of(root, page)
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, of...)
	}
	return blocks, nil
}
