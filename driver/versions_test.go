package driver

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
)

// Where the agent is newer than the wrapped driver one line warns of it; where it is not, or is not known, none.
func TestAgentIsNewer(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod": "module github.com/hashicorp/nomad\n",
		"main.go": `package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	if os.Args[1] == "version" {
		fmt.Println("Nomad v2.0.5")
		return
	}
	time.Sleep(time.Hour)
}
`,
	} {
		must.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	build := exec.Command("go", "build", "-o", "agent", ".")
	build.Dir = dir
	out, err := build.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
	agent := exec.Command(filepath.Join(dir, "agent"), "agent")
	must.NoError(t, agent.Start())
	defer func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	}()

	for _, test := range []struct {
		wrapped string
		agent   int
		warns   int
	}{
		{"1.11.3", agent.Process.Pid, 1},
		{"2.0.5", agent.Process.Pid, 0},
		{"2.1.0", agent.Process.Pid, 0},
		{"", agent.Process.Pid, 0},
		{"1.11.3", os.Getpid(), 0},
	} {
		var log bytes.Buffer
		d := &Driver{ctx: t.Context(), wrapped: &wrappedDocker, log: hclog.New(&hclog.LoggerOptions{Output: &log})}
		d.compareVersions(test.wrapped, test.agent)
		must.EqOp(t, test.warns, strings.Count(log.String(), "[WARN]"), must.Sprint(log.String()))
		must.EqOp(t, test.warns, strings.Count(log.String(), "the agent is newer than the wrapped driver"))
	}
}
