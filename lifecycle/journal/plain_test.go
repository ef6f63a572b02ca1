package journal

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

// The driver finds a task's journal by these names, to know whether a channel is still somebody's.
func TestPlainNamesAreKept(t *testing.T) {
	const id = "f0a1b2c3-0000-1111-2222-333344445555"
	for _, task := range []string{"web", "a.b_c-1", "A", strings.Repeat("x", 128)} {
		must.Eq(t, filepath.Join("/state", id, task), journalDir("/state", Task{AllocID: id, Name: task}))
	}
}
