package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// Nomad's script checks run in the task, with its current secrets (L1). Nomad makes them with Consul alone.

// A task with secrets answers its checks as one without does.
func TestScriptChecks(t *testing.T) {
	t.Parallel()
	l := newCheckLab(t, "checks")
	l.PutColour("checks", "green")
	l.AllowLeased("checks", "secret/data/checks")
	const lately, soon = "30s", "2s"
	checks := []struct {
		name, timeout, command string
		status                 string
		output                 string // empty: each says it in its own words
	}{
		{"pass", lately, lab.ShellCommand("echo $COLOUR"), "passing", "green\n"},
		{"warn", lately, lab.ShellCommand("echo $COLOUR; exit 1"), "warning", "green\n"},
		{"fail", lately, lab.ShellCommand("echo $COLOUR; exit 2"), "critical", "green\n"},
		{"user", lately, lab.ShellCommand("echo $COLOUR $(id -u)"), "passing", "green 0\n"},
		{"hang", soon, lab.ShellCommand("echo $COLOUR; sleep 1000"), "critical", ""},
		{"missing", lately, `command = "/no/such/command"`, "critical", ""},
	}
	var blocks strings.Builder
	for _, c := range checks {
		blocks.WriteString(lab.ScriptCheck(c.name, c.timeout, c.command))
	}
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			l := lab.CheckLab{Lab: newLabOn(t, l.Agent), Consul: l.Consul}
			image := ""
			if driver == "docker" {
				image = `image = "${meta.image}"`
			}
			name := strings.ReplaceAll(driver, "_", "-")
			// Made here: the checks are the table's, and both tasks have them.
			task := fmt.Sprintf("driver = %q\n%s\nresources {\n cpu = 10\n memory = 32\n}\nconfig {\n %s\n command = \"/bin/sleep\"\n args = [\"1000\"]\n", driver, lab.IdentityBlock, image)
			l.Run(fmt.Sprintf(`
job "checks-%[1]s" {
  group "g" {
    task "plain" {
      service {
        name = "%[1]s-plain"
        %[2]s
      }
      env {
        COLOUR = "green"
      }
      %[3]s
      }
    }
    task "secret" {
      service {
        name = "%[1]s-secret"
        %[2]s
      }
      %[3]s
        role = "checks"
        secret "app" {
          path = "secret/checks"
          env  = { COLOUR = "colour" }
        }
      }
    }
  }
}`, name, blocks.String(), task))
			for _, c := range checks {
				for _, service := range []string{name + "-plain", name + "-secret"} {
					l.Until(fmt.Sprintf("check %s of %s to be %s", c.name, service, c.status), func() error {
						got, err := l.Check(service, c.name)
						said := got.Output == c.output
						if c.output == "" { // critical is also what has not run yet
							said = got.Output != ""
						}
						if err == nil && (got.Status != c.status || !said) {
							err = fmt.Errorf("it is %q: %q", got.Status, got.Output)
						}
						return err
					})
				}
			}
			missing, err := l.Check(name+"-secret", "missing")
			require.NoError(t, err)
			require.Contains(t, missing.Output, "/no/such/command")
		})
	}
}

// Through rotations a check sees the current secret and never fails: neither one that runs when the process
// is stopped, nor one that is due when there is none, or is not ready yet, as those are that take no time.
func TestScriptChecksThroughRotations(t *testing.T) {
	t.Parallel()
	l := newCheckLab(t, "check-rounds")
	for _, driver := range []string{"docker", "raw_exec"} {
		for _, kind := range []struct{ name, mode, takes string }{{"restart", "restart", "0.9"}, {"noop", "noop", "0.9"}, {"quick", "restart", "0"}} {
			name := "rounds-" + strings.ReplaceAll(driver, "_", "-") + "-" + kind.name
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := lab.CheckLab{Lab: newLabOn(t, l.Agent), Consul: l.Consul} // its time begins when its turn comes
				l.PutColour(name, "round 0")
				l.AllowLeased(name, "secret/data/"+name)
				alloc := l.RunFile("check-rounds", lab.Vars{"name": name, "driver": driver, "mode": kind.mode, "takes": kind.takes})
				failed := l.WatchCheck(name, "colour")
				for round := 1; round <= 5; round++ {
					colour := fmt.Sprintf("round %d", round)
					l.PutColour(name, colour)
					l.Until("the check to see "+colour, func() error {
						got, err := l.Check(name, "colour")
						if err == nil && got.Output != colour+"\n" {
							err = fmt.Errorf("it is %q: %q", got.Status, got.Output)
						}
						return err
					})
				}
				require.Empty(t, failed(), "checks that failed")
				starts := 1
				if kind.mode == "restart" {
					starts = 6
				}
				require.Len(t, l.Lines(alloc, "app", "start", starts), starts)
				l.NotRestarted(alloc, lab.App)
			})
		}
	}
}
