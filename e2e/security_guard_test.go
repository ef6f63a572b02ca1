package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// Holes of Nomad's drivers that newer agents have closed, and the wrapped drivers have. Each test is the
// exploit. It runs on the agent's own drivers, which are the wrapped ones, where it must work, for else it would
// show nothing; and on ours under both kinds of file name, for tasks without secrets and with.

// guarded is an agent for an exploit.
type guarded struct {
	*lab.Lab
	builtIn bool
	victim  string // a directory of the host's, which no task may see
}

// onEachDriver runs an exploit on the built-in drivers, on ours in their place, and on ours beside them. The
// name is a word for agents and jobs.
func onEachDriver(t *testing.T, name string, exploit func(g guarded, secret string)) {
	t.Parallel()
	for place, placement := range map[string]harness.Placement{
		"built-in": harness.BuiltIn, "in-place": harness.InPlace, "beside": harness.Beside,
	} {
		t.Run(place, func(t *testing.T) {
			opts := harness.AgentOptions{Name: name + "-" + place, Placement: placement, Confined: true}
			if placement == harness.InPlace { // the hole that an operator opens is open, and no other
				opts.DockerHCL = "allowed_modes {\n uts = [\"host\"]\n ipc = [\"container:*\"]\n}"
			}
			g := guarded{Lab: newOwnLab(t, opts, 8*time.Minute), builtIn: placement == harness.BuiltIn}
			g.victim = t.TempDir()
			g.PutColour(name, "green")
			g.AllowLeased(name, "secret/data/"+name)
			exploit(g, "")
			if !g.builtIn {
				exploit(g, fmt.Sprintf(`
        role  = %[1]q
        splay = "0s"
        secret "app" {
          path    = "secret/%[1]s"
          env     = { COLOUR = "colour" }
          stagger = "0s"
        }`, name))
			}
		})
	}
}

// plant makes a file of the host's, which only root may read.
func (g guarded) plant(name, content string) string {
	g.T.Helper()
	path := filepath.Join(g.victim, name)
	require.NoError(g.T, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// guardJob is a job with one task whose end is the job's. It is made here: each exploit is a block or an option.
func guardJob(id, driver, before, task, config, secret string) string {
	image, identity := "", ""
	if driver == "docker" {
		image = `image = "${meta.image}"`
	}
	if secret != "" {
		identity, id = lab.IdentityBlock, id+"-secret"
	}
	return fmt.Sprintf(`
job "%s" {
  group "g" {
    restart {
      attempts = 2
      interval = "10m"
      delay    = "1s"
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    %s
    task "web" {
      driver = "%s"
      %s
      %s
      config {
        %s
        command = "/bin/sh"
        %s
        %s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`, id, before, driver, task, identity, image, config, secret)
}

// CVE-2026-14891: without the operator's volumes, a bind's source stays in the allocation's directory, whatever
// symlinks are in it.
func TestBindThroughASymlink(t *testing.T) {
	onEachDriver(t, "symlink", func(g guarded, secret string) {
		g.plant("canary", "the-hosts-own")
		// The symlink is made by the job's own first task.
		before := fmt.Sprintf(`
    task "plant" {
      driver = "docker"
      lifecycle {
        hook = "prestart"
      }
      config {
        image   = "${meta.image}"
        command = "/bin/sh"
        args    = ["-c", "ln -s %[1]s /alloc/data/out && ln -s data/out /alloc/chain && ln -s ../../alloc/data /local/in"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }`, g.victim)
		args := `args = ["-c", "echo stolen $(cat /host/canary); exec sleep 1000"]`
		for name, bind := range map[string]string{
			"volumes": `volumes = ["../alloc/data/out:/host:ro"]`,
			"chain":   `volumes = ["../alloc/chain:/host"]`,
			"file":    `volumes = ["../alloc/data/out/canary:/host/canary"]`,
			"mount":   "mount {\n type = \"bind\"\n source = \"../alloc/data/out\"\n target = \"/host\"\n}",
			"mounts":  `mounts = [{ type = "bind", source = "../alloc/data/out", target = "/host", readonly = true }]`,
		} {
			job := g.Submit(guardJob("bind-"+name, "docker", before, "", args+"\n"+bind, secret))
			if g.builtIn {
				require.Equal(g.T, []string{"the-hosts-own"}, g.Lines(g.FirstAlloc(job), "web", "stolen ", 1), "%s: the exploit does not work, and shows nothing", name)
				continue
			}
			alloc, err := job.Failed(g.Ctx)
			require.NoError(g.T, err)
			event, err := alloc.WaitEvent(g.Ctx, "web", "leads out of the allocation's directory")
			require.NoError(g.T, err, name)
			require.Contains(g.T, event, "volumes { enabled = true }")
			stolen, err := alloc.Lines("web", "stolen")
			require.NoError(g.T, err)
			require.Empty(g.T, stolen, name)
		}

		// What stays inside is bound as ever: a missing source is made, and what one writes is there.
		if g.builtIn {
			return
		}
		alloc := g.FirstAlloc(g.Submit(guardJob("bind-inside", "docker", before, "",
			`args = ["-c", "echo written > /in/file; echo x > /new/file; ls /ro; echo x > /ro/y || echo bound; exec sleep 1000"]
        volumes = ["../plant/local/in:/in", "local/new/dir:/new", "../alloc/data:/ro:ro"]`, secret)))
		g.Lines(alloc, "web", "bound", 1)
		require.FileExists(g.T, alloc.Dir("alloc", "data", "file"))
		require.FileExists(g.T, alloc.Dir("web", "local", "new", "dir", "file"))
		require.NoFileExists(g.T, alloc.Dir("alloc", "data", "y"))
		if secret != "" { // a restart in place binds the same
			colour := "blue-" + filepath.Base(g.victim)
			g.PutColour("symlink", colour)
			g.Lines(alloc, "web", "bound", 2)
			g.NotRestarted(alloc, "web")
			g.PutColour("symlink", "green")
			g.Lines(alloc, "web", "bound", 3)
		}
		require.NoError(g.T, alloc.Job.Stop(g.Ctx))
		g.noPinsLeft()
	})
}

// noPinsLeft: the binds that the plugin hands the engine and the loggers are mounted only as long as they need
// them.
func (g guarded) noPinsLeft() {
	g.T.Helper()
	g.Until("nothing mounted for a moment any more", func() error {
		info, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		if n := strings.Count(string(info), g.Agent.StateDir+"-binds/"); n > 0 {
			return fmt.Errorf("%d mounts", n)
		}
		return nil
	})
}

// CVE-2026-14373: the host's namespaces need the operator's word.
func TestHostNamespaces(t *testing.T) {
	onEachDriver(t, "modes", func(g guarded, secret string) {
		allowed := map[string]bool{}
		if g.Agent.Driver("docker") == "docker" && !g.builtIn {
			allowed["uts_mode"] = true // onEachDriver
		}
		for _, option := range []string{"pid_mode", "ipc_mode", "uts_mode", "userns_mode"} {
			id := strings.ReplaceAll(option, "_", "-")
			job := g.Submit(guardJob(id, "docker", "", "", fmt.Sprintf(`args = ["-c", "echo ran; exec sleep 1000"]
        %s = "host"`, option), secret))
			if g.builtIn || allowed[option] {
				alloc, err := job.Running(g.Ctx)
				require.NoError(g.T, err, option)
				g.Lines(alloc, "web", "ran", 1)
				inspect, err := alloc.Container(g.Ctx, "web")
				require.NoError(g.T, err)
				host := map[string]string{
					"pid_mode": string(inspect.HostConfig.PidMode), "ipc_mode": string(inspect.HostConfig.IpcMode),
					"uts_mode": string(inspect.HostConfig.UTSMode), "userns_mode": string(inspect.HostConfig.UsernsMode),
				}
				require.Equal(g.T, "host", host[option])
				continue
			}
			alloc, err := job.Failed(g.Ctx)
			require.NoError(g.T, err)
			event, err := alloc.WaitEvent(g.Ctx, "web", option+` = "host" is not allowed on this node`)
			require.NoError(g.T, err)
			require.Contains(g.T, event, "allow_privileged")
			ran, err := alloc.Lines("web", "ran")
			require.NoError(g.T, err)
			require.Empty(g.T, ran)
			restarts, err := alloc.Restarts(g.Ctx, "web")
			require.NoError(g.T, err)
			require.Zero(g.T, restarts, "Nomad tried again what cannot pass by itself")
		}
	})
}

// CVE-2026-6959, by a container: it puts a symlink in the place of its log FIFO, and ends; root opens the FIFO at
// the next start and writes what the container prints. By its own directory, and by another way to it.
func TestLogFIFOReplacedByAContainer(t *testing.T) {
	onEachDriver(t, "fifo", func(g guarded, secret string) {
		for name, way := range map[string][2]string{
			"own":    {"/alloc/logs", ""},
			"bound":  {"/other/logs", `volumes = ["../alloc:/other"]`},
			"direct": {"/logs", `volumes = ["../alloc/logs:/logs"]`},
			"whole":  {"/all/alloc/logs", `volumes = ["..:/all"]`},
			"mount":  {"/all/alloc/logs", "mount {\n type = \"bind\"\n source = \"..\"\n target = \"/all\"\n}"},
		} {
			victim := g.plant("fifo-"+name, "untouched\n")
			script := fmt.Sprintf(`test -e /local/tried && { echo owned by a task; exec sleep 1000; }; touch /local/tried; cd %s; (rm .web.stdout.fifo && ln -s %s .web.stdout.fifo && echo replaced || echo denied) 2>&1 >/local/result; cat /local/result; sleep 1; exit 1`, way[0], victim)
			job := g.Submit(guardJob("fifo-"+name, "docker", "", "", fmt.Sprintf("args = [\"-c\", %q]\n%s", script, way[1]), secret))
			alloc := g.FirstAlloc(job)
			if g.builtIn {
				g.Until("the host's file to be written", func() error { return isWritten(victim) })
				continue
			}
			g.Lines(alloc, "web", "owned by a task", 1) // it runs again, and its logs go on
			require.Error(g.T, isWritten(victim))
			result, err := os.ReadFile(alloc.Dir("web", "local", "result"))
			require.NoError(g.T, err)
			require.Equal(g.T, "denied\n", string(result))
		}
	})
}

// isWritten is an error as long as a planted file is as it was.
func isWritten(victim string) error {
	content, err := os.ReadFile(victim)
	if err == nil && string(content) == "untouched\n" {
		err = fmt.Errorf("untouched")
	}
	return err
}

// CVE-2026-6959, by a process of another user on the host: it renames the FIFO, or the directory that it is in, and
// puts a symlink there; and the same with the file that the wrapped driver's executor logs to.
func TestLogFIFOReplacedOnTheHost(t *testing.T) {
	onEachDriver(t, "hostfifo", func(g guarded, secret string) {
		for name, attack := range map[string]string{
			"fifo":     `cd "$NOMAD_ALLOC_DIR/logs" && rm .web.stdout.fifo && ln -s %s .web.stdout.fifo`,
			"logs":     `cd "$NOMAD_ALLOC_DIR" && mv logs old && mkdir logs && ln -s %s logs/.web.stdout.fifo && ln -s ../old/.web.stderr.fifo logs/.web.stderr.fifo`,
			"executor": `cd "$NOMAD_TASK_DIR/.." && rm executor.out && ln -s %s executor.out`,
		} {
			victim := g.plant("host-"+name, "untouched\n")
			// The directories are the task's to write to; the second time it does nothing.
			attack = fmt.Sprintf(attack, victim)
			script := fmt.Sprintf(`cd "$NOMAD_TASK_DIR"; echo "owned by $COLOUR"; test -e tried && exec sleep 1000; touch tried; (%s) && touch replaced; touch done; %%s`, attack)
			require.NoError(g.T, os.Chmod(g.victim, 0o711))
			end := "exit 1"
			if secret != "" { // the first time the process is restarted in place
				end = "exec sleep 1000"
			}
			script = fmt.Sprintf(strings.ReplaceAll(strings.ReplaceAll(script, "%%", "%"), "${", "$${"), end)
			job := g.Submit(guardJob("hostfifo-"+name, "raw_exec", "", `user = "nobody"`, fmt.Sprintf("args = [\"-c\", %q]", script), secret))
			alloc := g.FirstAlloc(job)
			g.Until("the attack", func() error { _, err := os.Stat(alloc.Dir("web", "local", "done")); return err })
			_, err := os.Stat(alloc.Dir("web", "local", "replaced"))
			switch {
			case g.builtIn:
				require.NoError(g.T, err, "the attacker replaced nothing")
				g.Until("the host's file to be written", func() error { return isWritten(victim) })
				continue
			case name == "executor":
				require.ErrorIs(g.T, err, os.ErrNotExist, "executor.out could be replaced")
			default:
				require.NoError(g.T, err, "the attacker replaced nothing")
			}
			if secret != "" {
				_, err := job.Running(g.Ctx)
				require.NoError(g.T, err)
				g.NotRestarted(alloc, "web")
				colour := "blue-" + name
				g.PutColour("hostfifo", colour)
				g.Until("the new process", func() error { return g.runsWith(alloc, colour) })
				g.NotRestarted(alloc, "web")
				g.PutColour("hostfifo", "green")
				g.Until("the new process", func() error { return g.runsWith(alloc, "green") })
				if name != "logs" { // Nomad's own collector goes on writing there
					g.Lines(alloc, "web", "owned by", 3)
				}
			} else if name != "executor" {
				_, err := job.Failed(g.Ctx)
				require.NoError(g.T, err)
				_, err = alloc.WaitEvent(g.Ctx, "web", "log FIFO")
				require.NoError(g.T, err)
			} else {
				g.Lines(alloc, "web", "owned by", 2)
			}
			require.Error(g.T, isWritten(victim), name)
		}
	})
}

// runsWith is nil once the task's process has this colour.
func (g guarded) runsWith(alloc *harness.Alloc, colour string) error {
	envs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range envs {
		env, _ := os.ReadFile(path)
		if strings.Contains(string(env), alloc.ID) && strings.Contains("\x00"+string(env), "\x00COLOUR="+colour+"\x00") {
			return nil
		}
	}
	return fmt.Errorf("no process of it has colour %s", colour)
}

// The plugin says which Nomad the wrapped driver is from, and is silent of an agent that is as old.
func TestWrappedVersionIsTold(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	node, err := l.Agent.Node(l.Ctx)
	require.NoError(t, err)
	for _, driver := range []string{"docker", "raw_exec"} {
		require.Equal(t, "1.11.3", node.Attributes["driver."+driver+".secrets.wrapped_nomad"])
	}
	log := logSays(l, "versions of the plugin and of Nomad")
	for line := range strings.Lines(log) {
		if strings.Contains(line, "versions of the plugin and of Nomad") {
			require.Contains(t, line, " wrapped_driver=1.11.3")
			require.Contains(t, line, " agent=1.11.3")
		}
	}
	require.NotContains(t, log, newerAgent)
}

// logSays waits until the agent's log has a text, and gives all of it.
func logSays(l *lab.Lab, text string) (log string) {
	l.T.Helper()
	l.Until("the log to say "+text, func() error {
		content, err := os.ReadFile(l.Agent.LogPath)
		if log = string(content); err == nil && !strings.Contains(log, text) {
			err = fmt.Errorf("it does not yet")
		}
		return err
	})
	return log
}

const newerAgent = "the agent is newer than the wrapped driver"
