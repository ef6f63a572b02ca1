package docs

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

var (
	testFile  = `(\S+_test\.go)`
	beforeRow = regexp.MustCompile(`(?m)^\| ` + testFile + ` \| (?:the same|` + testFile + `) \| (.*) \|$`)
	nowCalled = regexp.MustCompile(`^(\w+)(?: \(now (\w+)\))?$`)
)

// No test from before the refactoring has been lost: each is in the file that its row names.
func TestTestsFromBefore(t *testing.T) {
	const before = 404
	text := read(t, "tests-renamed.md")
	found := 3 // which the page names: one is merged into another, the others are rows of make bench
	for _, row := range beforeRow.FindAllStringSubmatch(text, -1) {
		path := row[1]
		if row[2] != "" {
			path = row[2]
		}
		source, err := os.ReadFile("../" + path)
		must.NoError(t, err, must.Sprint("move the row's tests to where they are now: ", row[0]))
		for _, test := range strings.Split(row[3], ", ") {
			m := nowCalled.FindStringSubmatch(test)
			must.SliceLen(t, 3, m, must.Sprint(test))
			name := m[1]
			if m[2] != "" {
				name = m[2]
			}
			must.StrContains(t, string(source), "\nfunc "+name+"(", must.Sprintf("%s: say in tests-renamed.md what became of it", path))
			found++
		}
	}
	must.EqOp(t, before, found)
}
