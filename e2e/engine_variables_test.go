package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
)

// variableTask is a job of one task that reads Nomad Variables: each into the file of its secret's name.
type variableTask struct {
	id, driver string
	identity   string            // empty: the usual one
	paths      map[string]string // of the secrets; empty: one, "app", at nomad/jobs/<id>
	run        string            // of the test program; empty: sleep
	secret     string            // what else is in each secret
	config     string            // what else is in config
	job        string            // what else is in job
	task       string            // its name; empty: app
	restarts   int
}

func (v variableTask) hcl() string {
	paths := v.paths
	if paths == nil {
		paths = map[string]string{"app": "nomad/jobs/" + v.id}
	}
	var secrets strings.Builder
	for name, path := range paths {
		fmt.Fprintf(&secrets, `
        secret %[1]q {
          provider = "nomad"
          path     = %[2]q
          env      = { VALUE_%[1]s = "password" }
          file %[1]q {
            field = "password"
          }
          %[3]s
        }`, name, path, v.secret)
	}
	return fmt.Sprintf(`
job %q {
  %s
  group "g" {
    restart {
      attempts = %d
      delay    = "1s"
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task %q {
      driver = %q
      %s
      config {
        %s
        command     = "testapp"
        args        = [%s]
        splay       = "0s"
        stagger     = "0s"
        change_mode = "noop"
        %s
        %s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`, v.id, v.job, v.restarts, or(v.task, lab.App), v.driver, or(v.identity, lab.NomadIdentity),
		map[string]string{"docker": `image = "${meta.image}"`}[v.driver], or(v.run, `"sleep"`), v.config, secrets.String())
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// variablesLab is an agent with ACLs.
type variablesLab struct{ *lab.Lab }

func (l variablesLab) start(v variableTask) *harness.Alloc { return l.Run(v.hcl()) }

// fails waits for a job that must not run, and gives the event that says why.
func (l variablesLab) fails(v variableTask, says string) string {
	l.T.Helper()
	alloc, err := l.Submit(v.hcl()).Failed(l.Ctx)
	require.NoError(l.T, err)
	return l.Event(alloc, says)
}

// child waits for the allocation of a job that another has made.
func (l variablesLab) child(of string) *harness.Alloc {
	l.T.Helper()
	var job *harness.Job
	l.Until("a child of "+of, func() error {
		list, _, err := l.Agent.Client().Jobs().PrefixList(of + "/")
		if err == nil && len(list) == 0 {
			err = errors.New("there is none")
		}
		if err == nil {
			job = l.Agent.Job(list[0].ID)
		}
		return err
	})
	alloc, err := job.Running(l.Ctx)
	require.NoError(l.T, err)
	l.Jobs = append(l.Jobs, job)
	return alloc
}

// Nomad Variables with Nomad's ACLs on: what a job may read, changes, and all that may come between.
func TestNomadVariables(t *testing.T) {
	t.Parallel()
	l := variablesLab{newOwnLab(t, harness.AgentOptions{Name: "vars", Placement: harness.InPlace, ACL: true}, 10*time.Minute)}
	_, err := l.Agent.Client().Namespaces().Register(&api.Namespace{Name: "team"}, nil)
	require.NoError(t, err)
	for path, value := range map[string]string{
		"nomad/jobs": "all", "nomad/jobs/implicit": "job", "nomad/jobs/implicit/g": "group", "nomad/jobs/implicit/g/app": "task",
		"apps/db": "denied", "apps/revoked": "first", "nomad/jobs/team": "of default",
		"nomad/jobs/calls": "parent's", "nomad/jobs/nightly": "parent's",
	} {
		l.PutVariable("default", path, value)
	}
	for _, id := range []string{"own-file", "covered", "exposed", "variable", "watched", "strange", "long", "again"} {
		l.PutVariable("default", "nomad/jobs/"+id, "first")
	}
	l.PutVariable("team", "nomad/jobs/team", "of team")

	// A right that is taken away while a query waits: seen when the next one begins, so it comes first.
	l.BindPolicy("revoked", "revoked", `namespace "default" { variables { path "apps/revoked" { capabilities = ["read"] } } }`)
	revoked := l.start(variableTask{id: "revoked", driver: "raw_exec", paths: map[string]string{"app": "apps/revoked"}})
	l.Gets(revoked, "app", "first")
	_, err = l.Agent.Client().ACLPolicies().Delete("revoked", nil)
	require.NoError(t, err)

	ok := t.Run("rights", func(t *testing.T) { l.part(t, variablesLab.rights) }) &&
		t.Run("identities", func(t *testing.T) { l.part(t, variablesLab.identities) }) &&
		t.Run("changes", func(t *testing.T) { l.part(t, variablesLab.changes) }) &&
		t.Run("outages", func(t *testing.T) { l.part(t, variablesLab.outages) })
	require.True(t, ok)

	l.Event(revoked, `secret "app": read Nomad Variable apps/revoked of namespace "default" with the identity in private/nomad.jwt: permission denied`)
	l.Gets(revoked, "app", "first")
	l.NotRestarted(revoked, lab.App)
	l.StopJobs()
	l.JournalEmpty()
}

// part runs one part of the test, and ends its jobs.
func (l variablesLab) part(t *testing.T, run func(variablesLab)) {
	part := variablesLab{l.For(t)}
	run(part)
	part.StopJobs()
}

// rights is what a job may read by itself, by a policy, as a child, and in another namespace.
func (l variablesLab) rights() {
	implicit := l.start(variableTask{id: "implicit", driver: "docker", paths: map[string]string{
		"all": "nomad/jobs", "job": "nomad/jobs/implicit", "group": "nomad/jobs/implicit/g", "task": "nomad/jobs/implicit/g/app",
	}})
	for _, name := range []string{"all", "job", "group", "task"} {
		l.Gets(implicit, name, name)
		require.Equal(l.T, name, l.Env(implicit, lab.App, "VALUE_"+name))
	}
	l.Event(implicit, "Secrets: reading Nomad Variables with the task's identity in private/nomad.jwt")

	denied := variableTask{id: "denied", driver: "raw_exec", paths: map[string]string{"app": "apps/db"}}
	event := l.fails(denied, "permission denied")
	policy := regexp.MustCompile("`(.*)`").FindStringSubmatch(event)
	require.Len(l.T, policy, 2, event)
	require.Contains(l.T, event, "nomad acl policy apply -namespace default -job denied")
	l.BindPolicy("apps-db", "denied", policy[1])
	denied.job = `meta { again = "1" }`
	again := l.Submit(denied.hcl())
	l.Until("the job to run with its policy", func() error { // an allocation of it has failed, so it is not Run
		allocs, err := again.Allocs(l.Ctx)
		if err != nil {
			return err
		}
		return lab.FileIs(allocs[0], "app", "denied") // the newest is first
	})

	calls := l.Submit(variableTask{id: "calls", driver: "raw_exec", job: "type = \"batch\"\n parameterized {}"}.hcl())
	_, _, err := l.Agent.Client().Jobs().Dispatch(calls.ID, nil, nil, "", nil)
	require.NoError(l.T, err)
	nightly := l.Submit(variableTask{id: "nightly", driver: "docker", job: "type = \"batch\"\n periodic { cron = \"0 0 1 1 *\" }"}.hcl())
	_, _, err = l.Agent.Client().Jobs().PeriodicForce(nightly.ID, nil)
	require.NoError(l.T, err)
	for _, of := range []*harness.Job{calls, nightly} {
		l.Gets(l.child(of.ID), "app", "parent's")
	}

	l.Gets(l.start(variableTask{id: "team", driver: "docker", job: `namespace = "team"`}), "app", "of team")
	l.fails(variableTask{id: "missing", driver: "docker"}, `secret "app": there is no Nomad Variable at nomad/jobs/missing in namespace "default"; make it: nomad var put`)
}

// identities is which token is used, and that the task does not get it unless it asks for that.
func (l variablesLab) identities() {
	l.PutVariable("default", "nomad/jobs/nobody", "x")
	l.fails(variableTask{id: "nobody", driver: "docker", identity: "# none"},
		`has no identity to read Nomad Variables with: add to the task  identity { file = true  filepath = "private/nomad.jwt" }`)

	const inSecrets = `
      identity {
        env  = true
        file = true
      }`
	own := l.start(variableTask{id: "own-file", driver: "raw_exec", identity: inSecrets})
	l.Event(own, "in secrets/nomad_token, which a raw_exec task can read")
	require.Empty(l.T, l.Env(own, lab.App, "NOMAD_TOKEN"))

	covered := l.start(variableTask{id: "covered", driver: "docker", identity: inSecrets})
	l.Event(covered, "in secrets/nomad_token")
	require.Equal(l.T, "0 end", l.output(covered, "echo $(wc -c < /secrets/nomad_token) ${NOMAD_TOKEN}end"))

	exposed := l.start(variableTask{id: "exposed", driver: "docker", identity: inSecrets, config: "expose_token = true"})
	token, err := os.ReadFile(filepath.Join(exposed.SecretsDir(lab.App), "nomad_token"))
	require.NoError(l.T, err)
	require.Equal(l.T, "same", l.output(exposed, `test "$NOMAD_TOKEN" = "$(cat /secrets/nomad_token)" && test -n "$NOMAD_TOKEN" && echo same`))
	inspect, err := exposed.Container(l.Ctx, lab.App)
	require.NoError(l.T, err)
	require.NotContains(l.T, strings.Join(inspect.Config.Env, "\n"), string(token), "the token takes the secrets' way")

	// The variable is all there is, and the plugin keeps it over its own end.
	variable := l.start(variableTask{id: "variable", driver: "docker", identity: "identity { env = true }"})
	l.Event(variable, "in NOMAD_TOKEN")
	require.Equal(l.T, "end", l.output(variable, "echo ${NOMAD_TOKEN}end"))
	l.KillPlugins()
	l.PutVariable("default", "nomad/jobs/variable", "second")
	l.Gets(variable, "app", "second")
}

// output is what a command in the task prints.
func (l variablesLab) output(alloc *harness.Alloc, script string) string {
	l.T.Helper()
	out, code, err := alloc.Exec(l.Ctx, lab.App, "sh", "-c", script)
	require.NoError(l.T, err)
	require.Zero(l.T, code, out)
	return strings.TrimSpace(out)
}

// changes is what follows when a variable changes, ends, and begins again, and who is asked for it.
func (l variablesLab) changes() {
	watched := l.start(variableTask{id: "watched", driver: "docker", secret: `change_mode = "restart"`})
	l.PutVariable("default", "nomad/jobs/watched", "second")
	l.Lines(watched, lab.App, "start ", 2)
	require.Equal(l.T, "second", l.Env(watched, lab.App, "VALUE_app"))
	l.Event(watched, `secret "app" changed; task restarted in place`)
	l.DeleteVariable("nomad/jobs/watched")
	l.Event(watched, `not rotated: secret "app": there is no Nomad Variable at nomad/jobs/watched`)
	l.Gets(watched, "app", "second")
	l.PutVariable("default", "nomad/jobs/watched", "third")
	l.Lines(watched, lab.App, "start ", 3)
	l.Gets(watched, "app", "third")
	l.NotRestarted(watched, lab.App)

	// One query waits for both. Whose token it has ends with its task.
	shared := map[string]string{"app": "nomad/jobs"}
	first := l.start(variableTask{id: "shared-1", driver: "raw_exec", paths: shared})
	second := l.start(variableTask{id: "shared-2", driver: "raw_exec", paths: shared})
	require.NoError(l.T, first.Job.Stop(l.Ctx))
	l.PutVariable("default", "nomad/jobs", "after the first's end")
	l.Gets(second, "app", "after the first's end")

	// Nomad makes no socket where its path is too long: another task's is used.
	name := strings.Repeat("w", 60)
	long := l.start(variableTask{id: "long", driver: "raw_exec", task: name})
	require.NoFileExists(l.T, filepath.Join(long.SecretsDir(name), "api.sock"))
	content, err := os.ReadFile(filepath.Join(long.SecretsDir(name), "app"))
	require.NoError(l.T, err)
	require.Equal(l.T, "first", string(content))

	// A task puts its own in the place of the socket. A new plugin process has no connection yet, and looks for one.
	strange := l.start(variableTask{id: "strange", driver: "docker", run: `"socket", "/secrets/api.sock"`})
	l.Lines(strange, lab.App, "listening", 1)
	l.KillPlugins()
	l.Lines(strange, lab.App, "connected", 1)
	l.PutVariable("default", "nomad/jobs/strange", "second")
	l.Gets(strange, "app", "second")
	asked, err := strange.Lines(lab.App, "asked ")
	require.NoError(l.T, err)
	require.Empty(l.T, asked, "a task was given a token")
}

// outages is what happens while Nomad's servers are away, and while the agent is.
func (l variablesLab) outages() {
	var kept []lab.KeptTask
	for _, driver := range []string{"docker", "raw_exec"} {
		id := "kept-" + driver
		l.PutVariable("default", "nomad/jobs/"+id, "first")
		pid := map[string]string{"docker": "/local/pid", "raw_exec": "pid"}[driver]
		alloc := l.start(variableTask{id: id, driver: driver, run: fmt.Sprintf(`"-pidfile", %q, "sleep"`, pid)})
		kept = append(kept, lab.KeptTask{Alloc: alloc, Task: lab.App, Driver: driver, Process: l.ProcessOf(alloc, lab.App, driver)})
	}
	again := l.start(variableTask{id: "again", driver: "raw_exec", restarts: 3})
	process := l.ProcDir(again, lab.App)

	l.Agent.StopServer()
	var pid int
	_, err := fmt.Sscan(filepath.Base(process), &pid)
	require.NoError(l.T, err)
	require.NoError(l.T, syscall.Kill(pid, syscall.SIGKILL)) // Nomad starts the task again
	l.Until("the start to wait", func() error {
		log, err := os.ReadFile(l.Agent.LogPath)
		if err == nil && !strings.Contains(string(log), "Secrets: the start waits, and tries again until") {
			err = errors.New("it does not say so")
		}
		return err
	})
	require.NoError(l.T, l.Agent.StartServer(l.Ctx))
	l.Until("the task that waited to run", func() error {
		state, err := again.State(l.Ctx, lab.App)
		if err == nil && (state.State != "running" || state.Restarts != 1) {
			err = fmt.Errorf("it is %s after %d restarts", state.State, state.Restarts)
		}
		return err
	})
	l.Lines(again, lab.App, "start ", 2)
	l.AllKept(kept)

	write := func(value string) {
		for _, k := range kept {
			l.PutVariable("default", "nomad/jobs/"+k.Alloc.Job.ID, value)
		}
		for _, k := range kept {
			l.Gets(k.Alloc, "app", value)
		}
		l.AllKept(kept)
	}
	write("after the servers' outage")
	require.NoError(l.T, l.Agent.Restart(l.Ctx))
	l.AllKept(kept)
	write("after the agent's restart")
	l.Agent.Kill()
	require.NoError(l.T, l.Agent.Start(l.Ctx))
	write("after the agent's death")
}
