package table

import (
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

var rows = [][]string{{"web", "secret/team/app", "DB_USER, DB_PASSWORD"}, {"a-long-name", "kv", ""}}

func columns(wrap bool) []Column {
	return []Column{{Title: "TASK"}, {Title: "PATH", Least: 6, Wrap: wrap}, {Title: "ENV", Least: 10, Wrap: wrap}}
}

func TestAsWideAsItIs(t *testing.T) {
	must.Eq(t, `TASK         PATH             ENV
web          secret/team/app  DB_USER, DB_PASSWORD
a-long-name  kv
`, Render(columns(true), rows, 0))
}

func TestNarrow(t *testing.T) {
	must.Eq(t, `TASK         PATH    ENV
web          secre…  DB_USER, …
a-long-name  kv
`, Render(columns(false), rows, 31))
	must.Eq(t, `TASK         PATH    ENV
web          secret  DB_USER,
             /team/  DB_PASSWOR
             app     D
a-long-name  kv
`, Render(columns(true), rows, 31))
}

// What has no room at all keeps what it keeps at the least.
func TestTooNarrow(t *testing.T) {
	must.Eq(t, 31, len(strings.Split(Render(columns(true), [][]string{{"a-long-name", "123456", "1234567890"}}, 5), "\n")[1]))
}
