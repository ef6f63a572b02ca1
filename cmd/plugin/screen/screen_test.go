package screen

import (
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// On a terminal a line goes on below its text; in a pipe it is one line.
func TestWrap(t *testing.T) {
	const text = "the first line and the second one"
	must.EqOp(t, "error   "+text+"\n", Screen{}.Wrap("error   ", 8, text))
	must.EqOp(t, "error   the first line and the\n        second one\n", Screen{Terminal: true, Width: 30}.Wrap("error   ", 8, text))
	must.EqOp(t, strings.Repeat("x", 20)+"\n  "+strings.Repeat("x", 10)+"\n", Screen{Terminal: true, Width: 22}.Wrap("", 2, strings.Repeat("x", 30)))
}

func TestCounted(t *testing.T) {
	must.EqOp(t, "0 tasks, 1 task, 2 tasks", Counted(0, "task")+", "+Counted(1, "task")+", "+Counted(2, "task"))
}
