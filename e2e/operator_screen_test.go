package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

var (
	escapes = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")
	colours = regexp.MustCompile("\x1b\\[[0-9;]*m")
)

// onTerminal runs a command, with all of its options, on a terminal of 80 columns.
func (l *operatorLab) onTerminal(args ...string) (screen string, status int) {
	l.T.Helper()
	line := l.program() + " " + strings.Join(args, " ")
	cmd := exec.CommandContext(l.Ctx, "script", "-qec", "stty cols 80 rows 24; "+line, "/dev/null")
	cmd.Env = append(os.Environ(), "TERM=xterm", "SHELL=/bin/sh", "NO_COLOR=")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil {
		require.ErrorAs(l.T, err, &exit, "%s", out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// shownEverywhere runs each command for people, on a terminal and in a pipe, and for programs.
func (l *operatorLab) shownEverywhere() {
	l.T.Helper()
	ask, node := []string{"-state-dir", l.Agent.StateDir}, []string{"-config", clientConfig(l.Lab)}
	for _, c := range []struct {
		args    []string
		colours bool // whatever is shown
		pipe    string
	}{
		{append([]string{"status"}, ask...), true, "operator-docker/app"},
		{append([]string{"refresh"}, ask...), true, "operator-docker/app"},
		{append([]string{"rotate", "-secret", "db"}, ask...), true, "operator-docker/app"},
		{append([]string{"doctor"}, node...), true, "ok      plugin docker: "},
		{append([]string{"audit"}, node...), false, "looked for "},
	} {
		screen, onTerminal := l.onTerminal(c.args...)
		for line := range strings.Lines(escapes.ReplaceAllString(screen, "")) {
			require.LessOrEqual(l.T, utf8.RuneCountInString(strings.TrimRight(line, "\r\n")), 80, screen)
		}
		if c.colours {
			require.Regexp(l.T, colours, screen)
		}

		stdout, stderr, inPipe := l.run(c.args...)
		require.Empty(l.T, stderr)
		require.Contains(l.T, stdout, c.pipe)
		require.NotRegexp(l.T, escapes, stdout)
		require.Equal(l.T, onTerminal, inPipe, "%s%s", screen, stdout)

		screen, asJSON := l.onTerminal(append(c.args, "-json")...)
		require.NotRegexp(l.T, escapes, screen)
		require.True(l.T, json.Valid([]byte(screen)), screen)
		require.Equal(l.T, onTerminal, asJSON, screen)
		if c.args[0] != "audit" { // which tells of what others write on this machine, too
			require.Zero(l.T, onTerminal, screen)
		}
	}
}
