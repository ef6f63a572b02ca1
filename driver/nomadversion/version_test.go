package nomadversion

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

func TestParse(t *testing.T) {
	for out, want := range map[string]string{
		"Nomad v1.11.3\n": "1.11.3",
		"Nomad v2.0.5\nBuildDate 2026-08-12T10:00:00Z\nRevision abc\n": "2.0.5",
		"Nomad v1.11.8+ent\nBuildDate x\n":                             "1.11.8+ent",
		"Nomad v2.1.0-beta.1 (abcdef)\n":                               "2.1.0-beta.1",
		"a line of something else\nNomad v1.11.3\n":                    "1.11.3",
		"Nomad vX\n":           "",
		"Consul v1.22.1\n":     "",
		"":                     "",
		"I am Nomad v1.11.3\n": "",
	} {
		must.EqOp(t, want, parse(out), must.Sprint(out))
	}
}

func TestNewer(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"2.0.5", "1.11.3", true}, {"1.11.8+ent", "1.11.3", true}, {"1.11.10", "1.11.3", true},
		{"1.11.3", "1.11.3", false}, {"1.11.3+ent", "1.11.3", false}, {"1.10.0", "1.11.3", false},
		{"1.11.3-beta.1", "1.11.3", false},
		{"", "1.11.3", false}, {"2.0.5", "", false},
	} {
		must.Eq(t, test.want, Newer(test.a, test.b), must.Sprint(test))
	}
}

// An agent is asked, by the program that it runs.
func TestOfAgent(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod": "module " + nomadModule + "\n",
		"main.go": `package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "version" && len(os.Environ()) == 0 {
		fmt.Println("Nomad v2.0.5")
		return
	}
	time.Sleep(time.Hour)
}
`,
	} {
		must.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	program := filepath.Join(dir, "other-name")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = dir
	out, err := build.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
	agent := exec.Command(program, "agent")
	must.NoError(t, agent.Start())
	defer func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	}()
	must.NoError(t, os.Remove(program), must.Sprint("an upgrade replaces the file, not what runs"))
	must.EqOp(t, "2.0.5", OfAgent(t.Context(), agent.Process.Pid))
}

// A parent that is not Nomad is asked nothing, whatever its name.
func TestOtherProgramsAreNotAsked(t *testing.T) {
	marked := filepath.Join(t.TempDir(), "ran")
	program := filepath.Join(t.TempDir(), "nomad")
	must.NoError(t, os.WriteFile(program, []byte("#!/bin/sh\ntouch "+marked+"\necho Nomad v9.9.9\n"), 0o755))
	must.EqOp(t, "", ofProgram(t.Context(), program))
	must.EqOp(t, "", OfAgent(t.Context(), os.Getpid())) // Go, but not Nomad
	must.EqOp(t, "", OfAgent(t.Context(), 1<<30))
	_, err := os.Stat(marked)
	must.ErrorIs(t, err, os.ErrNotExist)
}
