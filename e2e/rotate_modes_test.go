package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// kvTask is a task with one KV secret, at secret/<name>: the field colour is a file app/colour and the
// variable COLOUR.
type kvTask struct {
	name    string
	driver  string
	command string // command and args, as in HCL
	change  string // change_mode and what goes with it, as in HCL
}

func (k kvTask) run(l *lab.Lab, colour string) *harness.Alloc {
	l.T.Helper()
	require.NoError(l.T, l.Vault.EnableKV2(l.Ctx, "secret"))
	k.put(l, colour)
	require.NoError(l.T, l.Vault.Policy(l.Ctx, k.name, fmt.Sprintf(`path "secret/data/%s" { capabilities = ["read"] }`, k.name)))
	require.NoError(l.T, l.Vault.WorkloadRole(l.Ctx, "jwt-nomad", k.name, harness.WorkloadRole{Policies: []string{k.name}, TTL: hour}))
	image := ""
	if k.driver == "docker" {
		image = `image = "${meta.image}"`
	}
	// Made here: a change_mode comes with blocks of its own.
	return l.Run(fmt.Sprintf(`
job %[1]q {
  group "g" {
    task "app" {
      driver = %[2]q
      %[3]s
      config {
        %[4]s
        %[5]s
        role = %[1]q
        secret "app" {
          path  = "secret/%[1]s"
          env   = { COLOUR = "colour" }
          files = true
          splay = "0s"
          %[6]s
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`, k.name, k.driver, lab.IdentityBlock, image, k.command, k.change))
}

func (k kvTask) put(l *lab.Lab, colour string) {
	l.T.Helper()
	require.NoError(l.T, l.Vault.PutKV2(l.Ctx, "secret", k.name, map[string]any{"colour": colour, "again": colour}))
}

// The process gets its signal once for each change, after the files changed and never before: what it
// reads when the signal comes is the new, all of it.
func TestChangeModeSignal(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			k := kvTask{
				name: "signal-" + strings.ReplaceAll(driver, "_", "-"), driver: driver,
				command: `command = "testapp"
        args    = ["sighup", "${NOMAD_SECRETS_DIR}/app/colour", "${NOMAD_SECRETS_DIR}/app/again"]`,
				change: `change_mode   = "signal"
          change_signal = "SIGHUP"`,
			}
			alloc := k.run(l, "round 0")
			require.Len(t, l.Lines(alloc, "app", "file ", 2), 2)
			for round := 1; round <= 5; round++ {
				colour := fmt.Sprintf("round %d", round)
				k.put(l, colour)
				for _, line := range l.Lines(alloc, "app", "changed ", 2*round)[2*round-2:] {
					require.True(t, strings.HasSuffix(line, fmt.Sprintf(" %q", colour)),
						"when signal %d came the file was still old: %s", round, line)
				}
			}
			l.Events(alloc, 5, `secret "app" changed; task signalled with SIGHUP`)
			signals, err := alloc.Lines("app", "hangup")
			require.NoError(t, err)
			require.Len(t, signals, 5, "one signal a change")
			l.SameProcess(alloc)
		})
	}
}

// The script runs in the task, once for each change, with the new files and the new environment (L1).
// Its failure is an event; the task runs on, and so does the watch over its secrets.
func TestChangeModeScript(t *testing.T) {
	t.Parallel()
	// It runs where the process of testapp does, says what it sees, fails on red and hangs on amber:
	// with children that hold its output, and one that ignores SIGTERM. They end with the task at the latest.
	const script = `
          change_mode = "script"
          change_script {
            command = "/bin/sh"
            args = ["-c", <<-EOT
              file=$(cat "$NOMAD_SECRETS_DIR/app/colour")
              echo "file=$file env=$COLOUR app=$(cat /proc/1/comm)" >> "$NOMAD_TASK_DIR/changes"
              case $file in
                red) exit 3 ;;
                amber)
                  /bin/sh -c 'trap "" TERM HUP INT; while :; do sleep 1; done' "stray-$NOMAD_ALLOC_ID" &
                  sleep 1000; echo unreached ;;
              esac
            EOT
            ]
            timeout = "8s"
          }`
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			k := kvTask{
				name: "script-" + strings.ReplaceAll(driver, "_", "-"), driver: driver,
				command: `command = "testapp"
        args    = ["sleep"]`,
				change: script,
			}
			alloc := k.run(l, "white")
			l.Lines(alloc, "app", "start ", 1)
			seen := func(n int, colour string) {
				t.Helper()
				line := l.FileLines(alloc.Dir("app", "local", "changes"), n)[n-1]
				if driver == "docker" {
					require.Contains(t, line, " app=testapp", "the script did not run in the container")
				}
				require.Contains(t, line, fmt.Sprintf("file=%s env=%s ", colour, colour))
			}

			k.put(l, "green")
			seen(1, "green")
			l.Events(alloc, 1, `secret "app" changed; change_script run`)

			k.put(l, "red")
			seen(2, "red")
			l.Events(alloc, 1, `secret "app" changed; change_script failed: /bin/sh: exit code 3`)

			k.put(l, "amber")
			seen(3, "amber")
			l.Events(alloc, 1, `secret "app" changed; change_script failed: /bin/sh: not done after 8s`)

			k.put(l, "blue")
			seen(4, "blue")
			l.Events(alloc, 2, `secret "app" changed; change_script run`)
			l.SameProcess(alloc)
			require.NotEmpty(t, strays(t, alloc), "the script has left nothing, and this test shows nothing")

			begin := time.Now()
			require.NoError(t, alloc.Job.Stop(l.Ctx))
			require.Less(t, time.Since(begin), 30*time.Second, "the script that hangs delayed the task's end")
			l.Until("what the script left to end", func() error {
				if left := strays(t, alloc); len(left) > 0 {
					return fmt.Errorf("there are processes %v", left)
				}
				return nil
			})
		})
	}
}

// strays are the processes that the script of TestChangeModeScript leaves.
func strays(t *testing.T, alloc *harness.Alloc) (left []string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, line := range lines {
		args, _ := os.ReadFile(line)
		if slices.Contains(strings.Split(string(args), "\x00"), "stray-"+alloc.ID) {
			left = append(left, line)
		}
	}
	return left
}

// A script that is not there is an event, and the task runs on.
func TestChangeScriptMissing(t *testing.T) {
	t.Parallel()
	for _, driver := range []string{"docker", "raw_exec"} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			k := kvTask{
				name: "noscript-" + strings.ReplaceAll(driver, "_", "-"), driver: driver,
				command: `command = "testapp"
        args    = ["sleep"]`,
				change: `change_mode = "script"
          change_script {
            command = "/no/such/script"
          }`,
			}
			alloc := k.run(l, "white")
			for round := 1; round <= 2; round++ { // the first failure is not the last look at the secret
				k.put(l, fmt.Sprint("round ", round))
				l.Events(alloc, round, `secret "app" changed; change_script failed: /no/such/script: `)
			}
			l.SameProcess(alloc)
		})
	}
}
