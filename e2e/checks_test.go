package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// Nomad's script checks run in the task, with its current secrets (L1). Nomad makes them with Consul alone.

// checkLab is a lab on an agent that knows a Consul of its own.
type checkLab struct {
	*lab
	consul *harness.Consul
}

func newCheckLab(t *testing.T, agentName string) checkLab {
	server, err := shared.NewConsul(t.Context())
	require.NoError(t, err)
	agent, err := shared.NewAgent(t.Context(), harness.AgentOptions{
		Name: agentName, Placement: harness.InPlace, Secrets: map[string]any{"poll_interval": "1s"},
		AgentHCL: fmt.Sprintf("consul {\n  address = %q\n}", server.Addr),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	return checkLab{newLabOn(t, agent), server}
}

// scriptCheck is a check of a service. Its command is as in HCL.
func scriptCheck(name, timeout, command string) string {
	return fmt.Sprintf("check {\n type = \"script\"\n name = %q\n interval = \"1s\"\n timeout = %q\n %s\n}\n", name, timeout, command)
}

// shell is a command that runs a script.
func shell(script string) string {
	return fmt.Sprintf("command = \"/bin/sh\"\nargs = [\"-c\", %q]", script)
}

// check is a service's check as Consul has it, empty while there is none.
func (l checkLab) check(service, name string) (consul.AgentCheck, error) {
	filter := fmt.Sprintf("ServiceName == %q and Name == %q", service, name)
	found, err := l.consul.Client.Agent().ChecksWithFilter(filter)
	for _, c := range found {
		return *c, err
	}
	return consul.AgentCheck{}, err
}

// A task with secrets answers its checks as one without does.
func TestScriptChecks(t *testing.T) {
	t.Parallel()
	l := newCheckLab(t, "checks")
	l.putColour("checks", "green")
	l.mayRead("checks", "secret/data/checks")
	const lately, soon = "30s", "2s"
	checks := []struct {
		name, timeout, command string
		status                 string
		output                 string // empty: each says it in its own words
	}{
		{"pass", lately, shell("echo $COLOUR"), "passing", "green\n"},
		{"warn", lately, shell("echo $COLOUR; exit 1"), "warning", "green\n"},
		{"fail", lately, shell("echo $COLOUR; exit 2"), "critical", "green\n"},
		{"user", lately, shell("echo $COLOUR $(id -u)"), "passing", "green 0\n"},
		{"hang", soon, shell("echo $COLOUR; sleep 1000"), "critical", ""},
		{"missing", lately, `command = "/no/such/command"`, "critical", ""},
	}
	var blocks strings.Builder
	for _, c := range checks {
		blocks.WriteString(scriptCheck(c.name, c.timeout, c.command))
	}
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			l := checkLab{newLabOn(t, l.agent), l.consul}
			image := ""
			if driver == "docker" {
				image = `image = "${meta.image}"`
			}
			name := strings.ReplaceAll(driver, "_", "-")
			task := fmt.Sprintf("driver = %q\n%s\nresources {\n cpu = 10\n memory = 32\n}\nconfig {\n %s\n command = \"/bin/sleep\"\n args = [\"1000\"]\n", driver, identityBlock, image)
			l.run(fmt.Sprintf(`
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
					l.until(fmt.Sprintf("check %s of %s to be %s", c.name, service, c.status), func() error {
						got, err := l.check(service, c.name)
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
			missing, err := l.check(name+"-secret", "missing")
			require.NoError(t, err)
			require.Contains(t, missing.Output, "/no/such/command")
		})
	}
}

// Through rotations a check sees the current secret and never fails: neither one that runs when the process
// is stopped, nor one that is due when there is none, or is not ready yet.
func TestScriptChecksThroughRotations(t *testing.T) {
	t.Parallel()
	const (
		app = `rm -f $NOMAD_TASK_DIR/ready
echo start
sleep 1.5
touch $NOMAD_TASK_DIR/ready
trap 'sleep 0.5; exit' TERM
while :; do sleep 0.1; done`
		asks = `sleep 0.9; test -e $NOMAD_TASK_DIR/ready && echo $COLOUR`
	)
	l := newCheckLab(t, "check-rounds")
	for _, driver := range []string{"docker", "raw_exec"} {
		for _, mode := range []string{"restart", "noop"} {
			name := "rounds-" + strings.ReplaceAll(driver, "_", "-") + "-" + mode
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := checkLab{newLabOn(t, l.agent), l.consul} // its time begins when its turn comes
				l.putColour(name, "round 0")
				l.mayRead(name, "secret/data/"+name)
				image := ""
				if driver == "docker" {
					image = `image = "${meta.image}"`
				}
				alloc := l.run(fmt.Sprintf(`
job %[1]q {
  group "g" {
    service {
      name = %[1]q
      task = "app"
      %[5]s
    }
    task "app" {
      driver = %[2]q
      %[3]s
      config {
        %[4]s
        %[7]s
        role = %[1]q
        secret "app" {
          path        = "secret/%[1]s"
          env         = { COLOUR = "colour" }
          splay       = "0s"
          change_mode = %[6]q
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`, name, driver, identityBlock, image, scriptCheck("colour", "30s", shell(asks)), mode, shell(app)))
				failed := l.watchCheck(name, "colour")
				for round := 1; round <= 5; round++ {
					colour := fmt.Sprintf("round %d", round)
					l.putColour(name, colour)
					l.until("the check to see "+colour, func() error {
						got, err := l.check(name, "colour")
						if err == nil && got.Output != colour+"\n" {
							err = fmt.Errorf("it is %q: %q", got.Status, got.Output)
						}
						return err
					})
				}
				require.Empty(t, failed(), "checks that failed")
				starts := 1
				if mode == "restart" {
					starts = 6
				}
				require.Len(t, l.lines(alloc, "app", "start", starts), starts)
				l.noRestarts(alloc)
			})
		}
	}
}

// watchCheck watches a check from when it passes first. What it returns ends that, and tells how the check
// has failed since.
func (l checkLab) watchCheck(service, name string) (failed func() []string) {
	l.t.Helper()
	l.until("check "+name+" to pass", func() error {
		got, err := l.check(service, name)
		if err == nil && got.Status != "passing" {
			err = errors.New(got.Status)
		}
		return err
	})
	done := make(chan struct{})
	var watch sync.WaitGroup
	var failures []string
	watch.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for last := "passing"; ; {
			got, err := l.check(service, name)
			if err != nil {
				failures = append(failures, err.Error())
			} else if got.Status != last {
				failures = append(failures, fmt.Sprintf("%s %s: %q", time.Now().Format(time.StampMilli), got.Status, got.Output))
				last = got.Status
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	stop := sync.OnceFunc(func() {
		close(done)
		watch.Wait()
	})
	l.t.Cleanup(stop)
	return func() []string {
		stop()
		return failures
	}
}
