package docs

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

var packageName = regexp.MustCompile("`([a-z0-9/]+)`")

// The table of packages has each once, and none that is not there. What is `internal` to one goes with it.
func TestTableOfPackages(t *testing.T) {
	_, table, found := strings.Cut(read(t, "architecture.md"), "| package | what it is for |\n")
	must.True(t, found)
	table, _, _ = strings.Cut(table, "\n\n")
	var rows []string // what the first column names
	for line := range strings.Lines(table) {
		for _, m := range packageName.FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
			must.SliceNotContains(t, rows, m[1], must.Sprint("the table has it twice"))
			_, err := os.Stat("../" + m[1])
			must.NoError(t, err)
			rows = append(rows, m[1])
		}
	}
	named := rows // what a row's text names is explained, too
	for _, m := range packageName.FindAllStringSubmatch(table, -1) {
		named = append(named, m[1])
	}

	list := exec.Command("go", "list", "./...")
	list.Dir = ".."
	out, err := list.Output()
	must.NoError(t, err)
	for _, path := range strings.Fields(string(out)) {
		pkg := strings.TrimPrefix(path, module)
		if !strings.Contains(pkg, "/internal/") {
			must.True(t, slices.Contains(named, pkg), must.Sprintf("the table of packages does not have %s", pkg))
		}
	}
}
