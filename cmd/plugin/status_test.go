package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/control"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// goodReport is of a plugin with nothing wrong.
func goodReport() control.Report {
	return control.Report{
		Driver: "docker", PID: 1234567, Started: noon.Add(-3 * time.Hour), Version: "0.3.0", Nomad: "1.11.3", Config: "0a1b2c3d",
		Server: "https://vault.service.consul:8200",
		Tasks: []lifecycle.TaskStatus{{
			Namespace: "team", Job: "a-job-with-a-name-of-some-length", Alloc: "5a2b0c1d-0000-0000-0000-000000000000", Task: "web", State: lifecycle.TaskWatched,
			Secrets: []lifecycle.SecretStatus{
				{Name: "app", Path: "secret/app-1", Kind: "static", ChangeMode: "noop", State: lifecycle.SecretReady, Changed: noon.Add(-time.Minute), Cause: "changed on the server"},
				{
					Name: "database-of-the-orders", Path: "database/creds/orders", Kind: "leased", ChangeMode: "restart", State: lifecycle.SecretReady,
					NextRenewal: noon.Add(10 * time.Minute), Expires: noon.Add(30 * time.Minute),
				},
			},
		}},
	}
}

// shown is what a terminal of a width shows; 0: a pipe.
func shown(width int, all ...control.Report) string {
	var out strings.Builder
	v := statusView{Screen: screen.Screen{Out: &out, Terminal: width > 0, Width: width, Colours: width > 0}, now: noon}
	v.show(all)
	return out.String()
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")

func widest(text string) (n int) {
	for line := range strings.Lines(escapes.ReplaceAllString(text, "")) {
		n = max(n, utf8.RuneCountInString(strings.TrimRight(line, "\n")))
	}
	return n
}

// In a pipe nothing is cut, and nothing has a colour.
func TestStatusInAPipe(t *testing.T) {
	must.EqOp(t, strings.TrimLeft(`
DRIVER  PID      UP  VERSION  NOMAD   CONFIG    AGENT  TASKS  TO REVOKE
docker  1234567  3h  0.3.0    1.11.3  0a1b2c3d  ok     1      0

TASK                                  ALLOC     SECRET                  PATH                   STATE  NEXT       ENDS  CHANGED  WHY
a-job-with-a-name-of-some-length/web  5a2b0c1d  app                     secret/app-1           ready  -          -     60s      changed on the server
a-job-with-a-name-of-some-length/web  5a2b0c1d  database-of-the-orders  database/creds/orders  ready  renew 10m  30m   -        -
`, "\n"), shown(0, goodReport()))
	must.True(t, healthy([]control.Report{goodReport()}))
}

// On 80 columns all that counts is there, and no line is broken.
func TestStatusOnATerminal(t *testing.T) {
	text := shown(80, goodReport())
	must.LessEq(t, 80, widest(text), must.Sprint(text))
	must.StrContains(t, text, "a-job-with-")
	must.StrContains(t, text, "renew 10m")
	must.RegexMatch(t, escapes, text)
	must.LessEq(t, 160, widest(shown(160, goodReport())))
	must.StrContains(t, shown(160, goodReport()), "database/creds/orders")
}

// What is wrong is said in words below the tables, with what to do, and is the exit status.
func TestStatusOfTrouble(t *testing.T) {
	for name, test := range map[string]struct {
		change func(r *control.Report)
		says   []string
	}{
		"no answer": {func(r *control.Report) {
			*r = control.Report{Driver: "docker", PID: 7, Problem: "it does not answer: timeout"}
		},
			[]string{"docker (process 7): it does not answer: timeout"}},
		"no agent": {func(r *control.Report) { r.AgentGone = noon.Add(-5 * time.Minute) },
			[]string{"gone 5m", "no agent is connected to it, since 2026-11-26 11:55:00 UTC. An agent that starts again takes it over."}},
		"state_dir": {func(r *control.Report) { r.Problem = "state_dir cannot be used: …" }, []string{"state_dir cannot be used"}},
		"outage": {func(r *control.Report) {
			r.Tasks[0].Outages = []lifecycle.OutageStatus{{Provider: "vault", Since: noon.Add(-time.Minute), ValidUntil: noon.Add(time.Minute)}}
		}, []string{"no answer from vault at https://vault.service.consul:8200 since 2026-11-26 11:59:00 UTC, for 1 task; the first credential ends at 2026-11-26 12:01:00 UTC"}},
		"lost": {func(r *control.Report) {
			r.Tasks[0].Secrets[1].State = lifecycle.SecretLost
			r.Tasks[0].Secrets[1].LastError = &lifecycle.LastError{At: noon.Add(-time.Second * 30), Text: "read database/creds/orders: permission denied"}
		}, []string{"a-job-with-a-name-of-some-length/web 5a2b0c1d database-of-the-orders: lost; last error 30s ago: read database/creds/orders: permission denied"}},
		"ended": {func(r *control.Report) {
			r.Tasks[0].Secrets[1].State, r.Tasks[0].Secrets[1].Expires = lifecycle.SecretEnded, noon.Add(-time.Second)
		}, []string{"over"}},
		"unwatched": {func(r *control.Report) { r.Tasks[0].State = lifecycle.TaskUnwatched },
			[]string{"5a2b0c1d: unwatched, because of an error in the plugin (the agent's log has it): restart the task"}},
		"no token": {func(r *control.Report) {
			r.Tasks[0].State, r.Tasks[0].LastError = lifecycle.TaskWithoutKey, &lifecycle.LastError{At: noon, Text: "log in with the task's identity: refused"}
		}, []string{"5a2b0c1d: no token: log in with the task's identity: refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := goodReport()
			test.change(&r)
			must.False(t, healthy([]control.Report{r}))
			pipe := strings.ReplaceAll(shown(0, r), noon.Local().Format("MST"), "UTC")
			for _, text := range test.says {
				must.StrContains(t, pipe, text)
			}
			must.LessEq(t, 80, widest(shown(80, r)), must.Sprint(shown(80, r)))
		})
	}
	r := goodReport() // what is on its way, and what an optional secret lacks, is not wrong
	r.Tasks[0].Secrets[0].State, r.Tasks[0].Secrets[1].State = lifecycle.SecretMissing, lifecycle.SecretRotating
	r.Revocations = []lifecycle.RevocationStatus{{Job: "old", Task: "web", Leases: 2, Tokens: 1, Since: noon, Attempts: 3, LastError: "connection refused"}}
	must.True(t, healthy([]control.Report{r}))
	must.StrContains(t, shown(0, r), "2 leases, 1 token, 3 attempts: connection refused")
}

// A process whose place another has taken is to be ended: the note names both. One of another driver has not, nor has one that has no
// agent, either, or does not answer.
func TestStatusOfAnOrphan(t *testing.T) {
	orphan := goodReport()
	orphan.PID, orphan.AgentGone = 41, noon.Add(-time.Hour)
	other := func(change func(r *control.Report)) string {
		r := goodReport()
		r.PID = 42
		change(&r)
		return shown(0, orphan, r)
	}
	must.StrContains(t, other(func(*control.Report) {}), "docker (process 41): no agent is connected to it, since "+clock(orphan.AgentGone)+
		". Process 42 serves docker for this node's agent, which will not take this one over. End this one once its tasks have ended (kill 41).")
	for name, change := range map[string]func(r *control.Report){
		"another driver": func(r *control.Report) { r.Driver = "raw_exec" },
		"no agent":       func(r *control.Report) { r.AgentGone = noon },
		"no answer": func(r *control.Report) {
			*r = control.Report{Driver: r.Driver, PID: r.PID, Problem: "it does not answer"}
		},
	} {
		text := other(change)
		must.StrContains(t, text, "An agent that starts again takes it over.", must.Sprint(name))
		must.StrNotContains(t, text, "kill", must.Sprint(name))
	}
}

// The longest that the tables have: the names beside Nomad's own drivers, a development version, and a process without its agent for
// days. The columns that are for comparing give way.
func TestStatusOfLongNames(t *testing.T) {
	r := goodReport()
	r.Driver, r.PID, r.Started = "raw_exec-secrets", 4194304, noon.AddDate(-2, 0, 0)
	r.Version, r.Nomad, r.AgentGone = "0.3.0-dev.20261126+0a1b2c3d", "2.0.0-beta.1+ent", noon.Add(-47*time.Hour)
	r.Revocations = []lifecycle.RevocationStatus{{Job: "old", Task: "web", Leases: 123456, Since: noon}}
	task := &r.Tasks[0]
	task.Job, task.Task = strings.Repeat("job-", 20), strings.Repeat("task", 20)
	for i := range task.Secrets {
		task.Secrets[i].Name = strings.Repeat("secret", 20)
		task.Secrets[i].State = lifecycle.SecretRotating
		task.Secrets[i].NextRenewal, task.Secrets[i].NextRotation = time.Time{}, noon.Add(119*time.Minute)
		task.Secrets[i].Expires, task.Secrets[i].Changed = noon.Add(119*time.Minute), noon.AddDate(-2, 0, 0)
	}
	for _, width := range []int{80, 100, 120, 160} {
		text := shown(width, r)
		must.LessEq(t, width, widest(text), must.Sprint(text))
		for _, all := range []string{"raw_exec-secrets", "4194304", "gone 47h", "rotating", "replace 119m", "5a2b0c1d"} {
			must.StrContains(t, text, all)
		}
	}
}

// A job's names cannot write to the operator's terminal.
func TestStatusOfAHostileName(t *testing.T) {
	r := goodReport()
	r.Tasks[0].Job, r.Tasks[0].Secrets[0].Name = "a\x1b[2J\nb", "c\u009b0m\r"
	text := escapes.ReplaceAllString(shown(80, r), "")
	must.StrNotContains(t, text, "\x1b")
	must.StrNotContains(t, text, "\r")
	must.StrNotContains(t, text, "\u009b")
	must.StrContains(t, text, "a?[2J?b/web")
}

// operatedPlugin is a plugin process without a driver.
type operatedPlugin struct {
	report   control.Report
	outcomes []lifecycle.Outcome
}

func (p operatedPlugin) Report() control.Report { return p.report }

func (p operatedPlugin) Operate(context.Context, lifecycle.Operation, lifecycle.Selection) ([]lifecycle.Outcome, error) {
	return p.outcomes, nil
}

// run runs a command with a plugin process that has its socket.
func runAsk(t *testing.T, p operatedPlugin, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	must.NoError(t, os.Mkdir(dir, 0o711))
	server, err := control.Listen(dir, "docker", os.Getpid(), hclog.NewNullLogger())
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { must.NoError(t, server.Serve(ctx, p)) })
	defer serving.Wait()
	defer cancel()
	var out, errOut strings.Builder
	status = runCommand(append(args, "-state-dir", dir), &out, &errOut)
	return status, out.String(), errOut.String()
}

func TestStatusSelects(t *testing.T) {
	p := operatedPlugin{report: goodReport()}
	for args, tasks := range map[string]int{"": 1, "-alloc 5a2b": 1, "-alloc ffff": 0, "-task web": 1, "-task db": 0, "-secret app": 1, "-secret other": 0} {
		status, stdout, stderr := runAsk(t, p, append([]string{"status", "-json"}, strings.Fields(args)...)...)
		must.Zero(t, status, must.Sprint(args, stderr))
		var answer struct{ Plugins []control.Report }
		must.NoError(t, json.Unmarshal([]byte(stdout), &answer))
		must.Len(t, tasks, answer.Plugins[0].Tasks, must.Sprint(args))
		if strings.HasPrefix(args, "-secret") && tasks > 0 {
			must.Len(t, 1, answer.Plugins[0].Tasks[0].Secrets)
		}
	}
}

// refresh and rotate say what was done to whom, and their exit status is whether it is as it should be.
func TestOperateCommands(t *testing.T) {
	of := func(r lifecycle.Result) lifecycle.Outcome {
		return lifecycle.Outcome{Job: "web", Alloc: "5a2b0c1d-0000", Task: "app", Secret: "db", Result: r, Detail: "why"}
	}
	for _, test := range []struct {
		command  string
		outcomes []lifecycle.Outcome
		status   int
		stderr   string
	}{
		{"refresh", []lifecycle.Outcome{of(lifecycle.Unchanged)}, 0, ""},
		{"refresh", []lifecycle.Outcome{of(lifecycle.Replaced)}, 0, ""},
		{"refresh", []lifecycle.Outcome{of(lifecycle.Replaced), of(lifecycle.Failed)}, 1, ""},
		{"refresh", nil, 1, "no secret of a task that runs here matches"},
		{"rotate", []lifecycle.Outcome{of(lifecycle.Replaced), of(lifecycle.Skipped)}, 0, ""},
		{"rotate", []lifecycle.Outcome{of(lifecycle.NotRevoked)}, 1, ""},
		{"rotate", []lifecycle.Outcome{of(lifecycle.Skipped)}, 1, "no credential was replaced"},
	} {
		status, stdout, stderr := runAsk(t, operatedPlugin{outcomes: test.outcomes}, test.command)
		must.EqOp(t, test.status, status, must.Sprint(test))
		must.StrContains(t, stderr, test.stderr)
		for _, o := range test.outcomes {
			must.RegexMatch(t, regexp.MustCompile(`(?m)^web/app +5a2b0c1d +db +`+string(o.Result)+` +why$`), stdout)
		}
	}
	var out strings.Builder
	o := of(lifecycle.Failed)
	o.Detail = strings.Repeat("permission denied ", 20)
	showDone(screen.Screen{Out: &out, Terminal: true, Width: 80}, []control.Done{{Outcomes: []lifecycle.Outcome{o}}})
	must.LessEq(t, 80, widest(out.String()), must.Sprint(out.String()))
	must.StrContains(t, out.String(), "web/app 5a2b0c1d db failed: permission denied")
}

// The picture of a terminal in the README has today's columns.
func TestPicture(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	must.NoError(t, err)
	_, picture, found := strings.Cut(string(readme), "```console\n$ sudo nomad-driver-secrets status\n")
	must.True(t, found)
	picture, _, _ = strings.Cut(picture, "```")
	seen := 0
	for line := range strings.Lines(shown(0, goodReport())) {
		if columns := strings.Fields(line); len(columns) > 0 && (columns[0] == "DRIVER" || columns[0] == "TASK") {
			must.RegexMatch(t, regexp.MustCompile(`(?m)^`+strings.Join(columns, " +")+`$`), picture)
			seen++
		}
	}
	must.EqOp(t, 2, seen)
}
