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
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// Ours in the built-in drivers' place, and away again: nothing is restarted by it, a task with no
// secrets is the same container, and node and jobs see the same driver, plus its attribute.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	l := newOwnLab(t, harness.AgentOptions{
		Name: "takeover", ClientHCL: fmt.Sprintf("host_volume \"data\" {\n  path = %q\n}\n", data),
	}, 5*time.Minute)
	builtIn := l.RunFile("options", lab.Vars{"name": "takeover-built-in"})
	l.Lines(builtIn, "docker", `env COLOUR="green"`, 1)
	tasks := []lab.KeptTask{{Alloc: builtIn, Task: "docker", Driver: "docker"}, {Alloc: builtIn, Task: "raw_exec", Driver: "raw_exec"}}
	for i := range tasks {
		tasks[i].Process = l.ProcessOf(builtIn, tasks[i].Task, tasks[i].Driver)
	}
	drivers := driverFacts(l)
	refusal := refusedVolume(l, "takeover-volume-1")
	example, err := os.ReadFile("../jobs/readme.nomad.hcl")
	require.NoError(t, err)
	unplaced(l, string(example)) // there is no attribute to constrain on

	require.NoError(t, l.Agent.Place(harness.InPlace))
	require.NoError(t, l.Agent.Restart(l.Ctx))
	l.AllKept(tasks)
	ours := driverFacts(l)
	for _, driver := range []string{"docker", "raw_exec"} {
		for _, attr := range []string{"driver." + driver + ".secrets", "driver." + driver + ".secrets.nomad", "driver." + driver + ".secrets.wrapped_nomad"} {
			require.NotEmpty(t, ours[attr])
			delete(ours, attr)
			require.NotEmpty(t, ours["info of "+driver+": "+attr])
			delete(ours, "info of "+driver+": "+attr)
		}
	}
	require.Equal(t, drivers, ours, "what the node says of the drivers: the built-in's, ours")
	require.Contains(t, refusal, "volume")
	require.Contains(t, refusedVolume(l, "takeover-volume-2"), "volume_mount")

	same := l.RunFile("options", lab.Vars{"name": "takeover-ours"})
	l.Lines(same, "docker", `env COLOUR="green"`, 1)
	require.Equal(t, inspected(l, builtIn, "docker"), inspected(l, same, "docker"), "docker inspect: the built-in's container, ours")

	var secret []*lab.Survivor
	for _, driver := range []string{"docker", "raw_exec"} {
		s := lab.RecoveryTask{Driver: driver, Token: "identity"}.Start(l, "takeover")
		secret = append(secret, s)
		tasks = append(tasks, lab.KeptTask{Alloc: s.Alloc, Task: "web", Driver: driver, Process: s.Process})
	}
	require.NoError(t, l.Agent.Place(harness.InPlace)) // as an upgrade does
	require.NoError(t, l.Agent.Restart(l.Ctx))
	l.AllKept(tasks)
	for _, s := range secret {
		s.Rotate(l, "blue")
		s.Stop(l) // the built-in does not take what their config says
	}
	l.JournalEmpty()

	tasks = tasks[:len(tasks)-len(secret)]
	tasks = append(tasks, lab.KeptTask{Alloc: same, Task: "docker", Driver: "docker", Process: l.ProcessOf(same, "docker", "docker")})
	require.NoError(t, l.Agent.Place(harness.BuiltIn))
	require.NoError(t, l.Agent.Restart(l.Ctx))
	l.AllKept(tasks)
	require.Equal(t, drivers, driverFacts(l))
}

// driverFacts are the node's attributes about the drivers.
func driverFacts(l *lab.Lab) map[string]string {
	l.T.Helper()
	node, err := l.Agent.Node(l.Ctx)
	require.NoError(l.T, err)
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
func unplaced(l *lab.Lab, hcl string) {
	l.T.Helper()
	job := l.Submit(hcl)
	l.Until("job "+job.ID+" to find no node", func() error {
		evals, _, err := l.Agent.Client().Jobs().Evaluations(job.ID, nil)
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
	allocs, err := job.Allocs(l.Ctx)
	require.NoError(l.T, err)
	require.Empty(l.T, allocs)
	require.NoError(l.T, job.Stop(l.Ctx))
}

// refusedVolume runs a raw_exec task that asks for a volume_mount. It fails before its program runs;
// the events say why.
func refusedVolume(l *lab.Lab, name string) string {
	l.T.Helper()
	alloc, err := l.SubmitFile("host-volume", lab.Vars{"name": name}).Failed(l.Ctx)
	require.NoError(l.T, err)
	state, err := alloc.State(l.Ctx, "web")
	require.NoError(l.T, err)
	for _, e := range state.Events {
		require.NotEqual(l.T, api.TaskStarted, e.Type)
	}
	events, err := alloc.Events(l.Ctx, "web")
	require.NoError(l.T, err)
	return strings.Join(events, "\n")
}

// inspected is what docker says of a task's container, less ids, times, addresses and the job's name.
func inspected(l *lab.Lab, alloc *harness.Alloc, task string) map[string]any {
	l.T.Helper()
	inspect, err := alloc.Container(l.Ctx, task)
	require.NoError(l.T, err)
	raw, err := json.Marshal(inspect)
	require.NoError(l.T, err)
	names := []string{
		alloc.ID, "ALLOC", alloc.ID[:8], "ALLOC8", inspect.ID, "CONTAINER", inspect.ID[:12], "CONTAINER12",
		alloc.Job.ID, "JOB", strings.SplitN(l.PortOf(alloc, "http"), ":", 2)[1], "PORT",
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
	require.NoError(l.T, json.Unmarshal([]byte(text), &all))
	for _, volatile := range []string{"Created", "GraphDriver", "NetworkSettings"} {
		delete(all, volatile)
	}
	state := all["State"].(map[string]any)
	all["State"] = state["Status"]
	// Env and binds are lists whose order Nomad takes from a map.
	config := all["Config"].(map[string]any)
	config["Env"] = asSet(config["Env"])
	all["Mounts"] = withoutLogs(asSet(all["Mounts"]))
	host := all["HostConfig"].(map[string]any)
	host["Binds"] = asSet(host["Binds"])
	host["Mounts"] = withoutLogs(asSet(host["Mounts"]))
	return all
}

// withoutLogs takes out that containers see the allocation's logs read-only, one of the differences that README lists.
func withoutLogs(mounts map[string]bool) map[string]bool {
	maps.DeleteFunc(mounts, func(mount string, _ bool) bool { return strings.Contains(mount, `":"/alloc/logs"`) })
	return mounts
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
