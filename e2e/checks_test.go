package e2e

import (
	"cmp"
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

// scriptCheck is a check of a service, as a job has it.
type scriptCheck struct {
	name    string
	command string // command and args, as in HCL
	timeout string // empty is 2 s
	want    string // the status
}

// shellCheck runs a script in the task.
func shellCheck(name, script, want string) scriptCheck {
	return scriptCheck{name: name, command: fmt.Sprintf("command = \"/bin/sh\"\nargs = [\"-c\", %q]", script), want: want}
}

func (c scriptCheck) hcl() string {
	timeout := cmp.Or(c.timeout, "2s")
	return fmt.Sprintf("check {\n type = \"script\"\n name = %q\n interval = \"1s\"\n timeout = %q\n %s\n}\n", c.name, timeout, c.command)
}

// checks are the checks of a service, by name.
func (l checkLab) checks(service string) map[string]*consul.AgentCheck {
	l.t.Helper()
	all, err := l.consul.Client.Agent().ChecksWithFilterOpts(fmt.Sprintf("ServiceName == %q", service), (&consul.QueryOptions{}).WithContext(l.ctx))
	require.NoError(l.t, err)
	named := make(map[string]*consul.AgentCheck)
	for _, c := range all {
		named[c.Name] = c
	}
	return named
}

// A task with secrets answers its checks as one without does.
func TestScriptChecks(t *testing.T) {
	t.Parallel()
	l := newCheckLab(t, "checks")
	l.putColour("checks", "green")
	l.mayRead("checks", "secret/data/checks")
	checks := []scriptCheck{
		shellCheck("pass", "echo $COLOUR; echo and more >&2", "passing"),
		shellCheck("warn", "echo $COLOUR; exit 1", "warning"),
		shellCheck("fail", "echo $COLOUR; exit 2", "critical"),
		shellCheck("where", "echo $COLOUR $(id -u) $(dirname $PWD)", "passing"),
		shellCheck("hang", "echo $COLOUR; sleep 1000", "critical"),
		{name: "missing", command: `command = "/no/such/command"`, want: "critical"},
	}
	var blocks strings.Builder
	for _, c := range checks {
		blocks.WriteString(c.hcl())
	}
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			l := checkLab{l.of(t), l.consul}
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
				// A check is critical, and says nothing, before it has run.
				answer := func(service string) (output string) {
					l.until(fmt.Sprintf("check %s of %s to be %s", c.name, service, c.want), func() error {
						got := l.checks(service)[c.name]
						if got == nil || got.Output == "" || got.Status != c.want {
							return fmt.Errorf("it is %+v", got)
						}
						output = got.Output
						return nil
					})
					return output
				}
				plain, secret := answer(name+"-plain"), answer(name+"-secret")
				if c.name == "missing" { // each in its own words
					require.Contains(t, secret, "/no/such/command")
					continue
				}
				require.Equal(t, plain, secret, "check %s", c.name)
			}
		})
	}
}

// Through rotations a check sees the current secret and never fails: neither one that runs when the process
// is stopped, nor one that is due when there is none.
func TestScriptChecksThroughRotations(t *testing.T) {
	t.Parallel()
	l := newCheckLab(t, "check-rounds")
	check := shellCheck("colour", "sleep 0.9; echo $COLOUR", "passing")
	check.timeout = "30s"
	for _, driver := range []string{"docker", "raw_exec"} {
		for _, mode := range []string{"restart", "noop"} {
			name := "rounds-" + strings.ReplaceAll(driver, "_", "-") + "-" + mode
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l := checkLab{l.of(t), l.consul}
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
        command = "testapp"
        args    = ["-linger", "500ms", "sleep"]
        role    = %[1]q
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
}`, name, driver, identityBlock, image, check.hcl(), mode))
				failed := l.watchCheck(name, "colour")
				for round := 1; round <= 5; round++ {
					colour := fmt.Sprintf("round %d", round)
					l.putColour(name, colour)
					l.until("the check to see "+colour, func() error {
						if got := l.checks(name)["colour"]; got == nil || got.Output != colour+"\n" {
							return fmt.Errorf("it is %+v", got)
						}
						return nil
					})
				}
				require.Empty(t, failed(), "checks that failed")
				starts := 1
				if mode == "restart" {
					starts = 6
				}
				require.Len(t, l.lines(alloc, "app", "start ", starts), starts)
				l.noRestarts(alloc)
			})
		}
	}
}

// watchCheck watches a check from when it passes first. What it returns ends that, and tells how the check
// has failed since.
func (l checkLab) watchCheck(service, check string) (failed func() []string) {
	l.t.Helper()
	l.until("check "+check+" to pass", func() error {
		if got := l.checks(service)[check]; got == nil || got.Status != "passing" {
			return fmt.Errorf("it is %+v", got)
		}
		return nil
	})
	done := make(chan struct{})
	var watch sync.WaitGroup
	var failures []string
	watch.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for last := "passing"; ; {
			all, err := l.consul.Client.Agent().ChecksWithFilter(fmt.Sprintf("ServiceName == %q", service))
			for _, c := range all {
				if c.Name == check && c.Status != last {
					failures = append(failures, fmt.Sprintf("%s %s: %q", time.Now().Format(time.StampMilli), c.Status, c.Output))
					last = c.Status
				}
			}
			if err != nil {
				failures = append(failures, err.Error())
			}
			select {
			case <-tick.C:
			case <-done:
				return
			case <-l.ctx.Done():
				return
			}
		}
	})
	return func() []string {
		close(done)
		watch.Wait()
		return failures
	}
}
