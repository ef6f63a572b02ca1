package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// A wrapped driver's option does with secrets what it does without: each case runs as two tasks that
// differ in nothing but where COLOUR comes from, a secret or the job. Both must print the same, and
// end with the same exit code.
func TestOptionsOfTheWrappedDriver(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.SetTimeout(5 * time.Minute)
	l.PutColour("options", "green")
	l.AllowLeased("options", "secret/data/options")
	// A task ends only when the test has seen what it prints: of a container that ends at once, Nomad's
	// log collector may come too late.
	const end = `; e=$?; until test -e $NOMAD_TASK_DIR/end; do sleep 0.1; done; exit $e`
	entry, err := l.Images.Variant(l.Ctx, "entry", `ENTRYPOINT ["/bin/sh", "-c", "echo $COLOUR $0 $*`+end+`", "entry"]`, `CMD ["cmd", "of the image"]`)
	require.NoError(t, err)
	onlyCmd, err := l.Images.Variant(l.Ctx, "cmd", `CMD ["sh", "-c", "echo $COLOUR cmd`+end+`"]`)
	require.NoError(t, err)
	named, err := l.Images.Variant(l.Ctx, "named", `USER app`, `WORKDIR /tmp`)
	require.NoError(t, err)

	sh := func(script string) string {
		return fmt.Sprintf("command = \"/bin/sh\"\nargs = [\"-c\", %q]", script+end)
	}
	const whoami = `echo $COLOUR $(id -u):$(id -g)`
	cases := []struct {
		name   string
		driver string // empty is docker
		user   string
		image  string // empty is the test image: neither entrypoint nor command
		config string
		code   int
		want   string
	}{
		{name: "image-entrypoint", image: entry, want: "green entry cmd of the image"},
		{name: "image-command", image: onlyCmd, want: "green cmd"},
		{name: "args", image: entry, config: `args = ["a", "b c"]`, want: "green entry a b c"},
		{name: "command", image: entry, config: `command = "x"`, want: "green entry x"},
		{name: "command-args", image: entry, config: "command = \"x\"\nargs = [\"y\"]", want: "green entry x y"},
		{name: "entrypoint", image: entry, config: `entrypoint = ["/bin/sh", "-c", "echo $COLOUR task $0` + end + `", "zero"]`, want: "green task zero"},
		{name: "entrypoint-command-args", image: entry, config: `entrypoint = ["sh", "-c", "echo $COLOUR $0 $*` + end + `"]
			command = "x"
			args = ["y"]`, want: "green x y"},
		{name: "relative-command", config: "command = \"sh\"\nargs = [\"-c\", \"echo $COLOUR $PATH" + end + "\"]", want: "green /bin"},
		{name: "task-user", user: "app", config: sh(whoami), want: "green 1000:1000"},
		{name: "image-user", image: named, config: sh(whoami + " $PWD"), want: "green 1000:1000 /tmp"},
		{name: "numeric-user", user: "1234:55", config: sh(whoami), want: "green 1234:55"},
		{name: "work-dir", config: "work_dir = \"/local\"\n" + sh(`echo $COLOUR $PWD`), want: "green /local"},
		{name: "init", config: "init = true\n" + sh(`echo $COLOUR $(cat /proc/1/comm)`), want: "green docker-init"},
		{name: "no-init", config: sh(`echo $COLOUR $$`), want: "green 1"},
		{name: "readonly-rootfs", config: "readonly_rootfs = true\n" + sh(`touch /x 2>/dev/null || echo $COLOUR refused`), want: "green refused"},
		{name: "volumes", config: "volumes = [\"local/v:/v\"]\n" + sh(`echo $COLOUR > /v/f; cat /local/v/f`), want: "green"},
		{name: "bind", config: `mount {
			type     = "bind"
			source   = "local"
			target   = "/bound"
			readonly = true
		}` + "\n" + sh(`echo $COLOUR > /local/f; cat /bound/f; touch /bound/x 2>/dev/null || echo refused`), want: "green\nrefused"},
		{name: "tmpfs", config: `mount {
			type   = "tmpfs"
			target = "/scratch"
			tmpfs_options {
				size = 65536
			}
		}` + "\n" + sh(`echo $COLOUR $(df -kP /scratch | awk 'END{print $1, $2}')`), want: "green tmpfs 64"},
		{name: "cap-drop", config: "cap_drop = [\"all\"]\n" + sh(`echo $COLOUR $(grep CapEff /proc/self/status | tr -d '\t')`), want: "green CapEff:0000000000000000"},
		{name: "exit-code", config: sh(`echo $COLOUR; (exit 7)`), code: 7, want: "green"},
		{name: "stderr", config: sh(`echo $COLOUR >&2`), want: "stderr: green"},
		{name: "raw-args", driver: "raw_exec", config: `command = "/bin/sh"
			args = ["-c", "echo $COLOUR $0` + end + `", "a b"]`, want: "green a b"},
		{name: "raw-path", driver: "raw_exec", config: "command = \"sh\"\nargs = [\"-c\", \"echo $COLOUR" + end + "\"]", want: "green"},
		{name: "raw-user", driver: "raw_exec", user: "nobody", config: sh(whoami), want: "green 65534:65534"},
		{name: "raw-work-dir", driver: "raw_exec", config: "work_dir = \"/usr\"\n" + sh(`echo $COLOUR $PWD`), want: "green /usr"},
		{name: "raw-exit-code", driver: "raw_exec", config: sh(`echo $COLOUR; (exit 9)`), code: 9, want: "green"},
	}
	jobs := make([]*harness.Job, len(cases))
	for i, c := range cases {
		place := ""
		if c.driver == "" {
			c.driver = "docker"
			if c.image == "" {
				c.image = "${meta.image}"
			}
			place = fmt.Sprintf("image = %q\n", c.image)
		}
		// Made here: what is in config is the table's.
		task := fmt.Sprintf("driver = %q\nuser = %q\nresources {\n cpu = 10\n memory = 32\n}\n", c.driver, c.user)
		jobs[i] = l.Submit(fmt.Sprintf(`
job "option-%[1]s" {
  type = "batch"
  group "plain" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task "plain" {
      %[2]s
      env {
        COLOUR = "green"
      }
      config {
        %[3]s
      }
    }
  }
  group "secret" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task "secret" {
      %[2]s
      %[4]s
      config {
        %[3]s
        role = "options"
        secret "app" {
          path  = "secret/options"
          env   = { COLOUR = "colour" }
          files = true
        }
      }
    }
  }
}`, c.name, task, place+c.config, lab.IdentityBlock))
	}
	tasks := []string{"plain", "secret"}
	for i, c := range cases {
		t.Run(c.name+"/prints", func(t *testing.T) {
			l := l.For(t)
			for _, task := range tasks {
				alloc := l.GroupAlloc(jobs[i], task)
				require.Equal(t, c.want, output(l, alloc, task, c.want), "output of task %s", task)
				require.NoError(t, os.WriteFile(alloc.Dir(task, "local", "end"), nil, 0o644))
			}
		})
	}
	for i, c := range cases {
		t.Run(c.name+"/ends", func(t *testing.T) {
			l := l.For(t)
			for _, task := range tasks {
				require.Equal(t, c.code, exitCode(l, l.GroupAlloc(jobs[i], task), task), "exit code of task %s", task)
			}
		})
	}
}

// exitCode is a task's, once it has ended.
func exitCode(l *lab.Lab, alloc *harness.Alloc, task string) int {
	l.T.Helper()
	state, err := alloc.Ended(l.Ctx, task)
	require.NoError(l.T, err)
	for _, e := range state.Events {
		if e.Type == api.TaskTerminated {
			return e.ExitCode
		}
	}
	events, err := alloc.Events(l.Ctx, task)
	require.NoError(l.T, err)
	require.Fail(l.T, "task "+task+" has not run", strings.Join(events, "\n"))
	return 0
}

// output is all that a task has printed, once it is what is expected or the task has ended.
func output(l *lab.Lab, alloc *harness.Alloc, task, expected string) (out string) {
	l.T.Helper()
	l.Until(fmt.Sprintf("task %s to print %q", task, expected), func() error {
		stdout, err := alloc.Logs(task, "stdout")
		require.NoError(l.T, err)
		stderr, err := alloc.Logs(task, "stderr")
		require.NoError(l.T, err)
		if out = strings.TrimSpace(stdout); stderr != "" {
			out += "stderr: " + strings.TrimSpace(stderr)
		}
		if out == expected {
			return nil
		}
		state, err := alloc.State(l.Ctx, task)
		if err == nil && state.State == "dead" {
			return nil
		}
		return fmt.Errorf("it prints %q", out)
	})
	return out
}

// The calls that Nomad makes of a running task, with secrets: exec, signals, stats, labels of its
// container; and its files belong to the user that the image names.
func TestCallsToATaskWithSecrets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.PutColour("calls", "green")
	l.AllowLeased("calls", "secret/data/calls")
	named, err := l.Images.Variant(l.Ctx, "named", `USER app`, `WORKDIR /tmp`)
	require.NoError(t, err)
	alloc := l.RunFile("calls", lab.Vars{"image": named})
	for task, uid := range map[string]string{"docker": "1000", "raw_exec": "65534"} {
		t.Run(task, func(t *testing.T) {
			l := l.For(t)
			l.Lines(alloc, task, "file ", 1)
			l.Until("exec to print something", func() error { // Nomad may lose it
				out, code, err := alloc.Exec(l.Ctx, task, "sh", "-c", `echo $COLOUR $(id -u) $(cat $NOMAD_SECRETS_DIR/app/colour) $(stat -Lc %u:%a $NOMAD_SECRETS_DIR/app/colour); exit 3`)
				require.NoError(t, err)
				require.Equal(t, 3, code)
				if out == "" {
					return errors.New("nothing")
				}
				require.Equal(t, "green "+uid+" green "+uid+":400\n", out)
				return nil
			})
			_, code, err := alloc.ExecAsIs(l.Ctx, task, "/no/such/command")
			require.True(t, err != nil || code != 0, "a command that is not there ended with 0")
			require.NoError(t, alloc.Signal(l.Ctx, task, "SIGHUP"))
			l.Lines(alloc, task, "changed ", 1)
			l.Until("stats", func() error {
				usage, err := alloc.Stats(l.Ctx, task)
				if err == nil && usage.ResourceUsage.MemoryStats.RSS+usage.ResourceUsage.MemoryStats.Usage == 0 {
					err = errors.New("no memory in use")
				}
				return err
			})
		})
	}
	inspect, err := alloc.Container(l.Ctx, "docker")
	require.NoError(t, err)
	require.Equal(t, "a", inspect.Config.Labels["team"])
	require.Equal(t, alloc.ID, inspect.Config.Labels["com.hashicorp.nomad.alloc_id"])
}
