package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// auditBuiltIn is how a job gets a password into the environment with Nomad alone, and auditOurs with this plugin.
const (
	auditBuiltIn = `
    task "%[1]s" {
      driver = "%[1]s"
      vault {
        role = "audit"
      }
      template {
        data        = "DB_PASSWORD={{ with secret \"secret/audit-%[1]s\" }}{{ .Data.data.value | toJSON }}{{ end }}"
        destination = "secrets/app.env"
        env         = true
      }
      config {
        %[2]s
        command = "testapp"
        args    = ["sleep"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }`
	auditOurs = `
    task "%[1]s" {
      driver = "%[1]s"` + lab.IdentityBlock + `
      config {
        %[2]s
        command = "testapp"
        args    = ["sleep"]
        role    = "audit"
        secret "app" {
          path  = "secret/audit-%[1]s"
          env   = { DB_PASSWORD = "value" }
          files = true
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }`
)

// audited is what of `audit -json` is looked at.
type audited struct {
	Tasks []struct {
		Task, Driver string
		Plugin       bool
	}
	Leaks []struct {
		Task, Driver, Value, Where, Place string
		Plugin                            bool
	}
	Errors []string
}

// Beside ours audit finds what the built-in drivers leak, says where and by which driver, and finds nothing of ours, until a task writes
// its own password to the disk.
func TestAudit(t *testing.T) {
	t.Parallel()
	h := newLeakSearch(t, harness.AgentOptions{Name: "audit", Placement: harness.Beside})
	tasks := map[string]string{
		"docker": auditBuiltIn, "raw_exec": auditBuiltIn, "docker-secrets": auditOurs, "raw_exec-secrets": auditOurs,
	}
	var group strings.Builder
	var paths, values []string
	for task, hcl := range tasks {
		values = append(values, h.Put("audit-"+task, task))
		paths = append(paths, "secret/data/audit-"+task)
		image := ""
		if strings.HasPrefix(task, "docker") {
			image = `image = "${meta.image}"`
		}
		fmt.Fprintf(&group, hcl, task, image)
	}
	h.AllowLeased("audit", paths...)
	alloc := h.Run("job \"audit\" {\n  group \"g\" {" + group.String() + "\n  }\n}")
	for task := range tasks {
		h.Lines(alloc, task, "start ", 1)
	}

	audit := func() (r audited) {
		t.Helper()
		out, status := operate(h.Lab, "audit", "-json")
		require.Equal(t, 1, status, "%s", out)
		require.NoError(t, json.Unmarshal([]byte(out), &r))
		require.Empty(t, r.Errors)
		return r
	}
	r := audit()
	seen := map[string]bool{}
	for _, task := range r.Tasks {
		seen[task.Task] = true
		require.Equal(t, task.Task, task.Driver)
		require.Equal(t, strings.HasSuffix(task.Driver, "-secrets"), task.Plugin)
	}
	require.Len(t, seen, len(tasks))
	places := map[string]bool{}
	for _, leak := range r.Leaks {
		require.False(t, leak.Plugin, "of ours: %+v", leak)
		require.Contains(t, leak.Value, "secrets/")
		places[leak.Driver+" in "+leak.Where] = true
		places[leak.Driver+" in "+filepath.Base(leak.Place)] = true
	}
	for _, want := range []string{"docker in docker inspect", "docker in config.v2.json", "raw_exec in state.db"} {
		require.True(t, places[want], "%s is not among %v", want, places)
	}

	// For people, on a pipe.
	out, status := operate(h.Lab, "audit")
	require.Equal(t, 1, status)
	require.Contains(t, out, "LEAK  task docker, alloc "+alloc.ID[:8]+", driver docker, put there by Nomad: secrets/app.env is in docker inspect: docker-"+alloc.ID)
	require.Contains(t, out, "found: 0 values of this plugin's, ")
	all, err := json.Marshal(r)
	require.NoError(t, err)
	for _, value := range values {
		require.NotContains(t, out, value[:20])
		require.NotContains(t, string(all), value[:20])
	}

	// Ours was looked for.
	_, code, err := alloc.Exec(h.Ctx, "docker-secrets", "/bin/sh", "-c", `printf %s "$DB_PASSWORD" > $NOMAD_ALLOC_DIR/leak`)
	require.NoError(t, err)
	require.Zero(t, code)
	ours := 0
	for _, leak := range audit().Leaks {
		if leak.Plugin {
			ours++
			require.Equal(t, "docker-secrets", leak.Driver)
			require.Equal(t, "leak", filepath.Base(leak.Place))
		}
	}
	require.Positive(t, ours)
}

// The doctor finds a node of the harness fit; and without the plugin's block, with a wrong address and with a misnamed file not.
func TestDoctor(t *testing.T) {
	t.Parallel()
	l := newOwnLab(t, harness.AgentOptions{Name: "doctor", Placement: harness.InPlace}, lab.DefaultTimeout)
	l.Allow(harness.DefaultWorkloadRole, "secret/data/doctor")
	out, status := operate(l, "doctor")
	require.Zero(t, status, "%s", out)
	for _, want := range []string{
		"ok      agent: Nomad ", "ok      plugin docker: ", "ok      plugin raw_exec: ", "ok      docker: engine ",
		"ok      server: " + l.Agent.Vault().Addr, "ok      clock: ", `ok      jwt: role "` + harness.DefaultWorkloadRole + `"`, "ok      state_dir: ",
		"\n\n0 errors, ",
	} {
		require.Contains(t, out, want)
	}

	client, err := os.ReadFile(clientConfig(l))
	require.NoError(t, err)
	for _, tc := range []struct{ name, old, new, want string }{
		{"no block", `plugin "docker"`, `plugin "podman"`, `error   plugin docker: there is no block plugin "docker"`},
		{"unknown key", "poll_interval", "pol_interval", `error   plugin docker: Invalid label: No argument or block type is named "pol_interval".`},
		{"another path", `path = "` + l.Agent.AuthPath + `"`, `path = "jwt-nowhere"`, "error   jwt: nothing answers at auth/jwt-nowhere"},
		{"another role", harness.DefaultWorkloadRole, "nobodys", `warning jwt: role "nobodys"`},
		{"server away", l.Agent.Vault().Addr, "http://127.0.0.1:1", "error   server: http://127.0.0.1:1: "},
		{"no HCL", "client {", "client = {{", "error   configuration: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			require.Contains(t, string(client), tc.old)
			path := filepath.Join(t.TempDir(), "client.hcl")
			require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(client), tc.old, tc.new)), 0o600))
			out, status := operate(l.For(t), "doctor", "-config", path)
			require.Contains(t, out, tc.want)
			want := 0
			if strings.HasPrefix(tc.want, "error") {
				want = 1
			}
			require.Equal(t, want, status, "%s", out)
		})
	}

	misnamed := filepath.Join(filepath.Dir(l.Agent.PluginFile("docker")), "nomad-driver-secrets")
	require.NoError(t, os.Link(l.Agent.PluginFile("docker"), misnamed))
	t.Cleanup(func() { require.NoError(t, os.Remove(misnamed)) })
	out, status = operate(l, "doctor", "-json")
	require.Equal(t, 1, status)
	require.Contains(t, out, `"check":"plugin nomad-driver-secrets"`)
}

func clientConfig(l *lab.Lab) string {
	return filepath.Join(filepath.Dir(l.Agent.DataDir()), "client.hcl")
}

// operate runs a command of this program as an operator does, with the agent's configuration if the arguments name no other.
func operate(l *lab.Lab, command string, args ...string) (stdout string, status int) {
	l.T.Helper()
	if !strings.Contains(strings.Join(args, " "), "-config") {
		args = append([]string{"-config", clientConfig(l)}, args...)
	}
	var out, errOut strings.Builder
	cmd := exec.CommandContext(l.Ctx, l.Agent.PluginFile("docker"), append([]string{command}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(l.T, err)
	}
	require.Empty(l.T, errOut.String())
	return out.String(), cmd.ProcessState.ExitCode()
}
