package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

// TestLanes: what runs side by side in CI ends well if all of it does, and shows everything that it printed.
func TestLanes(t *testing.T) {
	script, err := os.ReadFile("../.ci/lanes")
	must.NoError(t, err)
	for name, test := range map[string]struct {
		lanes []string
		want  int
	}{
		"all well":     {[]string{"a", "b c", "d"}, 0},
		"one lane":     {[]string{"a"}, 0},
		"first fails":  {[]string{"fails", "b"}, 2},
		"middle fails": {[]string{"a", "b fails", "c"}, 2},
		"last fails":   {[]string{"a", "fails"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must.NoError(t, os.MkdirAll(filepath.Join(dir, ".ci"), 0o755))
			must.NoError(t, os.WriteFile(filepath.Join(dir, ".ci", "lanes"), script, 0o755))
			// In make's place: it says what it is to make, and fails where it is told to.
			must.NoError(t, os.WriteFile(filepath.Join(dir, "make"), []byte("#!/bin/sh\necho \"made: $*\"\ncase \"$*\" in *fails*) exit 2;; esac\n"), 0o755))
			cmd := exec.CommandContext(t.Context(), filepath.Join(dir, ".ci", "lanes"), test.lanes...)
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
			out, _ := cmd.CombinedOutput()
			must.Eq(t, test.want, cmd.ProcessState.ExitCode(), must.Sprint(string(out)))
			for _, lane := range test.lanes {
				must.StrContains(t, string(out), "made: --no-print-directory "+lane+" BUILT=1")
			}
		})
	}
}
