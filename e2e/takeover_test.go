package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// optionsJob has no secrets, and something of everything.
const optionsJob = `
job "%s" {
  group "g" {
    network {
      mode = "bridge"
      port "http" {
        to = 8080
      }
    }
    volume "data" {
      type   = "host"
      source = "data"
    }
    task "docker" {
      driver = "docker"
      user   = "app"
      env {
        COLOUR = "green"
      }
      volume_mount {
        volume      = "data"
        destination = "/data"
      }
      config {
        image           = "${meta.image}"
        entrypoint      = ["/bin/testapp"]
        command         = "env"
        args            = ["COLOUR"]
        work_dir        = "/local"
        init            = true
        readonly_rootfs = true
        cap_drop        = ["net_raw"]
        volumes         = ["local/v:/v"]
        ulimit {
          nofile = "4242"
        }
        sysctl = {
          "net.core.somaxconn" = "1234"
        }
        labels {
          team = "a"
        }
        mount {
          type   = "tmpfs"
          target = "/scratch"
          tmpfs_options {
            size = 65536
          }
        }
        mount {
          type     = "bind"
          source   = "local"
          target   = "/bound"
          readonly = true
        }
        logging {
          type = "json-file"
          config {
            max-size = "1m"
          }
        }
      }
      resources {
        cpu        = 30
        memory     = 40
        memory_max = 50
      }
    }
    task "raw_exec" {
      driver = "raw_exec"
      config {
        command = "testapp"
        args    = ["-pidfile", "pid", "sleep"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`

// Ours in the built-in drivers' place, and away again: nothing is restarted by it, a task with no
// secrets is the same container, and node and jobs see the same driver, plus its attribute (DESIGN 2).
func TestTakeOver(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	l := newOwnLab(t, harness.AgentOptions{
		Name: "takeover", ClientHCL: fmt.Sprintf("host_volume \"data\" {\n  path = %q\n}\n", data),
	}, 5*time.Minute)
	builtIn := l.run(fmt.Sprintf(optionsJob, "takeover-built-in"))
	l.lines(builtIn, "docker", `env COLOUR="green"`, 1)
	tasks := []standing{{alloc: builtIn, task: "docker", driver: "docker"}, {alloc: builtIn, task: "raw_exec", driver: "raw_exec"}}
	for i := range tasks {
		tasks[i].body = l.bodyOf(builtIn, tasks[i].task, tasks[i].driver)
	}
	drivers := l.driverFacts()
	refusal := l.refusedVolume("takeover-volume-1")
	example, err := os.ReadFile("../jobs/readme.nomad.hcl")
	require.NoError(t, err)
	l.unplaced(string(example)) // there is no attribute to constrain on

	require.NoError(t, l.agent.Place(harness.InPlace))
	require.NoError(t, l.agent.Restart(l.ctx))
	l.stand(tasks)
	ours := l.driverFacts()
	for _, driver := range []string{"docker", "raw_exec"} {
		for _, attr := range []string{"driver." + driver + ".secrets", "info of " + driver + ": driver." + driver + ".secrets"} {
			require.NotEmpty(t, ours[attr])
			delete(ours, attr)
		}
	}
	require.Equal(t, drivers, ours, "what the node says of the drivers: the built-in's, ours")
	require.Contains(t, refusal, "volume")
	require.Contains(t, l.refusedVolume("takeover-volume-2"), "volume_mount")

	same := l.run(fmt.Sprintf(optionsJob, "takeover-ours"))
	l.lines(same, "docker", `env COLOUR="green"`, 1)
	require.Equal(t, l.inspected(builtIn, "docker"), l.inspected(same, "docker"), "docker inspect: the built-in's container, ours")

	var secret []*survivor
	for _, driver := range []string{"docker", "raw_exec"} {
		s := recovering{driver, "identity"}.start(l, "takeover")
		secret = append(secret, s)
		tasks = append(tasks, standing{alloc: s.alloc, task: "web", driver: driver, body: s.body})
	}
	require.NoError(t, l.agent.Place(harness.InPlace)) // as an upgrade does
	require.NoError(t, l.agent.Restart(l.ctx))
	l.stand(tasks)
	for _, s := range secret {
		s.rotates(l, "blue")
		s.ends(l) // the built-in does not take what their config says
	}
	l.nothingJournalled()

	tasks = tasks[:len(tasks)-len(secret)]
	tasks = append(tasks, standing{alloc: same, task: "docker", driver: "docker", body: l.bodyOf(same, "docker", "docker")})
	require.NoError(t, l.agent.Place(harness.BuiltIn))
	require.NoError(t, l.agent.Restart(l.ctx))
	l.stand(tasks)
	require.Equal(t, drivers, l.driverFacts())
}

// standing is a task with the process that it is to keep.
type standing struct {
	alloc        *harness.Alloc
	task, driver string
	body         body
}

// stand shows that every task still has its process, that Nomad can reach it through the driver, and
// that nobody counts a restart.
func (l *lab) stand(tasks []standing) {
	l.t.Helper()
	for _, s := range tasks {
		require.Equal(l.t, s.body, l.bodyOf(s.alloc, s.task, s.driver), "the process of task %s", s.task)
		l.notRestarted(s.alloc, s.task)
		l.until("exec in task "+s.task, func() error {
			out, code, err := s.alloc.Exec(l.ctx, s.task, "sh", "-c", "echo $NOMAD_TASK_NAME")
			if err == nil && (code != 0 || out != s.task+"\n") { // none: Nomad may lose it
				err = fmt.Errorf("exit code %d: %s", code, out)
			}
			return err
		})
	}
}

// driverFacts are the node's attributes about the drivers.
func (l *lab) driverFacts() map[string]string {
	l.t.Helper()
	node, err := l.agent.Node(l.ctx)
	require.NoError(l.t, err)
	facts := maps.Clone(node.Attributes)
	maps.DeleteFunc(facts, func(name, _ string) bool { return !strings.HasPrefix(name, "driver.") })
	for name, info := range node.Drivers {
		if info.Detected {
			facts["health of "+name] = info.HealthDescription
			for key, value := range info.Attributes {
				facts["info of "+name+": "+key] = value
			}
		}
	}
	return facts
}

// unplaced submits a job that finds no node.
func (l *lab) unplaced(hcl string) {
	l.t.Helper()
	job := l.submit(hcl)
	l.until("job "+job.ID+" to find no node", func() error {
		evals, _, err := l.agent.Client().Jobs().Evaluations(job.ID, nil)
		if err != nil {
			return err
		}
		for _, eval := range evals {
			for _, metric := range eval.FailedTGAllocs {
				if len(metric.ConstraintFiltered) > 0 {
					return nil
				}
			}
		}
		return fmt.Errorf("%d evaluations", len(evals))
	})
	allocs, err := job.Allocs(l.ctx)
	require.NoError(l.t, err)
	require.Empty(l.t, allocs)
	require.NoError(l.t, job.Stop(l.ctx))
}

// refusedVolume runs a raw_exec task that asks for a volume_mount. It fails before its program runs;
// the events say why.
func (l *lab) refusedVolume(name string) string {
	l.t.Helper()
	alloc, err := l.submit(fmt.Sprintf(`
job %q {
  group "g" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    volume "data" {
      type   = "host"
      source = "data"
    }
    task "web" {
      driver = "raw_exec"
      volume_mount {
        volume      = "data"
        destination = "data"
      }
      config {
        command = "testapp"
        args    = ["sleep"]
      }
    }
  }
}`, name)).Failed(l.ctx)
	require.NoError(l.t, err)
	state, err := alloc.State(l.ctx, "web")
	require.NoError(l.t, err)
	for _, e := range state.Events {
		require.NotEqual(l.t, api.TaskStarted, e.Type)
	}
	events, err := alloc.Events(l.ctx, "web")
	require.NoError(l.t, err)
	return strings.Join(events, "\n")
}

// inspected is what docker says of a task's container, less ids, times, addresses and the job's name.
func (l *lab) inspected(alloc *harness.Alloc, task string) map[string]any {
	l.t.Helper()
	inspect, err := alloc.Container(l.ctx, task)
	require.NoError(l.t, err)
	raw, err := json.Marshal(inspect)
	require.NoError(l.t, err)
	names := []string{
		alloc.ID, "ALLOC", alloc.ID[:8], "ALLOC8", inspect.ID, "CONTAINER", inspect.ID[:12], "CONTAINER12",
		alloc.Job.ID, "JOB", strings.SplitN(l.portOf(alloc, "http"), ":", 2)[1], "PORT",
	}
	for _, variable := range inspect.Config.Env {
		if ip, ok := strings.CutPrefix(variable, "NOMAD_ALLOC_IP_http="); ok {
			names = append(names, ip+":", "IP:", "IP_http="+ip, "IP_http=IP")
		}
	}
	if pause, ok := strings.CutPrefix(string(inspect.HostConfig.NetworkMode), "container:"); ok {
		names = append(names, pause, "PAUSE", pause[:12], "PAUSE12")
	}
	text := strings.NewReplacer(names...).Replace(string(raw))
	var all map[string]any
	require.NoError(l.t, json.Unmarshal([]byte(text), &all))
	for _, volatile := range []string{"Created", "GraphDriver", "NetworkSettings"} {
		delete(all, volatile)
	}
	state := all["State"].(map[string]any)
	all["State"] = state["Status"]
	// Env and binds are lists whose order Nomad takes from a map.
	config := all["Config"].(map[string]any)
	config["Env"] = asSet(config["Env"])
	all["Mounts"] = asSet(all["Mounts"])
	host := all["HostConfig"].(map[string]any)
	host["Binds"] = asSet(host["Binds"])
	host["Mounts"] = asSet(host["Mounts"])
	return all
}

func asSet(list any) map[string]bool {
	set := map[string]bool{}
	items, _ := list.([]any)
	for _, item := range items {
		text, _ := json.Marshal(item)
		set[string(text)] = true
	}
	return set
}
