package policy

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/jobfile"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

var update = flag.Bool("update", false, "write what is expected anew")

// mounts are those that jobs/README.md sets up.
var mounts = []vault.Mount{
	{Path: "secret/", Type: "kv", V2: true}, {Path: "kv1/", Type: "kv"}, {Path: "database/", Type: "database"},
	{Path: "rabbitmq/", Type: "rabbitmq"}, {Path: "pki/", Type: "pki"}, {Path: "ssh/", Type: "ssh"}, {Path: "aws/", Type: "aws"},
}

func parse(t *testing.T, name string, src []byte) *jobfile.File {
	t.Helper()
	file, problems := jobfile.Parse(name, src, jobfile.Options{})
	must.SliceEmpty(t, problems)
	return file
}

func options() Options { return Options{Mounts: mounts, AuthPath: "jwt-nomad"} }

// granted reads a policy as Vault does, as far as it says which capabilities a path has.
func granted(t *testing.T, policy string) map[string][]string {
	t.Helper()
	file, diags := hclsyntax.ParseConfig([]byte(policy), "policy", hcl.InitialPos)
	must.False(t, diags.HasErrors(), must.Sprint(diags, policy))
	all := map[string][]string{}
	for _, b := range file.Body.(*hclsyntax.Body).Blocks {
		must.Eq(t, "path", b.Type)
		v, diags := b.Body.Attributes["capabilities"].Expr.Value(nil)
		must.False(t, diags.HasErrors())
		for _, c := range v.AsValueSlice() {
			all[b.Labels[0]] = append(all[b.Labels[0]], c.AsString())
		}
		slices.Sort(all[b.Labels[0]])
	}
	return all
}

// The policies of jobs/policies are what policy writes, but for what a job's own program needs beside its secrets.
func TestExamplePolicies(t *testing.T) {
	programs := map[string]map[string][]string{
		// The issuer reads and writes certificates with a second identity of its own (docs/acme.md).
		"acme-issuer": {"secret/data/acme/*": {"create", "read", "update"}, "secret/data/tls/acme-web": {"create", "read", "update"}},
	}
	files, err := filepath.Glob("../../../jobs/*.nomad.hcl")
	must.NoError(t, err)
	must.SliceNotEmpty(t, files)
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".nomad.hcl")
		t.Run(name, func(t *testing.T) {
			src, err := os.ReadFile(path)
			must.NoError(t, err)
			plan, err := Of(t.Context(), parse(t, path, src), options())
			must.NoError(t, err)
			if name == "nomad-variables" { // its own variables need nothing
				must.SliceEmpty(t, plan.Roles)
				must.SliceEmpty(t, plan.Variables)
				return
			}
			must.Len(t, 1, plan.Roles)
			must.Eq(t, name, plan.Roles[0].Name)
			must.SliceEmpty(t, plan.Roles[0].Notes)
			theirs, err := os.ReadFile("../../../jobs/policies/" + name + ".hcl")
			must.NoError(t, err)
			want := granted(t, string(theirs))
			for path, capabilities := range programs[name] {
				must.Eq(t, capabilities, want[path])
				delete(want, path)
			}
			must.Eq(t, want, granted(t, plan.Roles[0].Policy()))
		})
	}
}

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must.NoError(t, os.MkdirAll("testdata", 0o755))
		must.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	must.NoError(t, err)
	must.EqOp(t, string(want), got)
}

// several has two tasks with one role, one with none, one with another, and a Vault namespace.
const several = `job "web shop" {
  namespace = "shop"
  group "app" {
    task "app" {
      driver = "docker"
      identity {
        name     = "vault"
        aud      = ["vault.example.com"]
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        image = "app:1"
        role  = "web"
        secret "db" {
          path = "database/creds/app"
          env  = { DB_USER = "username" }
        }
        secret "app" {
          path  = "secret/app-1"
          files = true
        }
      }
    }
    task "sidecar" {
      driver = "docker"
      config {
        image = "app:1"
        role  = "web"
        secret "app" {
          path  = "secret/app-1"
          files = true
        }
        secret "tls" {
          path   = "pki/issue/web"
          params = { common_name = "x" }
          files  = true
        }
      }
    }
    task "unnamed" {
      driver = "raw_exec"
      config {
        command = "x"
        secret "a" {
          path  = "team kv/a"
          files = true
        }
        secret "b" {
          path  = "secret/${meta.team}/b"
          files = true
        }
      }
    }
    task "vault" {
      driver = "docker"
      vault {
        role = "legacy"
      }
      config {
        image         = "app:1"
        namespace     = "teams/a"
        from_policies = "env"
      }
    }
    task "plain" {
      driver = "docker"
      config {
        image = "app:1"
      }
    }
  }
}
`

func TestGolden(t *testing.T) {
	plan, err := Of(t.Context(), parse(t, "job", []byte(several)), options())
	must.NoError(t, err)
	must.True(t, plan.Incomplete)
	var script, policies strings.Builder
	must.NoError(t, plan.WriteScript(&script))
	must.NoError(t, plan.WritePolicies(&policies))
	golden(t, "several.sh", script.String())
	golden(t, "several.hcl", policies.String())

	one := options()
	one.Task = "app/sidecar"
	plan, err = Of(t.Context(), parse(t, "job", []byte(several)), one)
	must.NoError(t, err)
	must.Eq(t, map[string][]string{"secret/data/app-1": {"read"}, "pki/issue/web": {"update"}}, granted(t, plan.Roles[0].Policy()))
	must.Eq(t, []string{"sidecar"}, plan.Roles[0].JWT.BoundClaims.Tasks)
	one.Task = "none"
	_, err = Of(t.Context(), parse(t, "job", []byte(several)), one)
	must.ErrorContains(t, err, `no task "none"`)
}

// The role is bound to the audience of the identity that the driver logs in with, whatever others the task has.
func TestAudience(t *testing.T) {
	for file, want := range map[string]string{"private/vault.jwt": "corp.vault", "/private//vault.jwt": "corp.vault", "": "vault.io"} {
		plan, err := Of(t.Context(), parse(t, "job", fmt.Appendf(nil, `job "j" {
  group "g" {
    task "web" {
      driver = "docker"
      identity {
        name     = "any"
        aud      = ["corp.vault"]
        file     = true
        filepath = %q
      }
      identity {
        name = "aws"
        aud  = ["sts.amazonaws.com"]
        file = true
      }
      config {
        image = "i"
        secret "app" {
          path = "secret/app"
          env  = { A = "a" }
        }
      }
    }
  }
}`, file)), options())
		must.NoError(t, err)
		must.Eq(t, []string{want}, plan.Roles[0].JWT.BoundAudiences)
	}
}

// A shell runs the script, and vault gets each policy and role as it is.
func TestScriptRuns(t *testing.T) {
	plan, err := Of(t.Context(), parse(t, "job", []byte(several)), options())
	must.NoError(t, err)
	var script strings.Builder
	must.NoError(t, plan.WriteScript(&script))
	dir := t.TempDir()
	fake := "#!/bin/sh\necho \"$@\" >>" + dir + "/calls\nn=$(wc -l <" + dir + "/calls)\ncat >" + dir + "/in.$n\n"
	must.NoError(t, os.WriteFile(filepath.Join(dir, "vault"), []byte(fake), 0o755))
	sh := exec.Command("sh")
	sh.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
	sh.Stdin = strings.NewReader(script.String())
	out, err := sh.CombinedOutput()
	must.NoError(t, err, must.Sprint(string(out)))
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	must.NoError(t, err)
	must.EqOp(t, `policy write web -
write auth/jwt-nomad/role/web -
policy write web-shop-unnamed -
write auth/jwt-nomad/role/web-shop-unnamed -
policy write -namespace=teams/a legacy -
write -namespace=teams/a auth/jwt-nomad/role/legacy -
`, string(calls))
	first, err := os.ReadFile(filepath.Join(dir, "in.1"))
	must.NoError(t, err)
	must.EqOp(t, plan.Roles[0].Policy(), string(first))
	second, err := os.ReadFile(filepath.Join(dir, "in.2"))
	must.NoError(t, err)
	var role JWTRole
	must.NoError(t, json.Unmarshal(second, &role))
	must.Eq(t, plan.Roles[0].JWT, role)
	must.Eq(t, claims{Namespace: "shop", JobID: "web shop", Tasks: []string{"app", "sidecar"}}, role.BoundClaims)
	must.Eq(t, []string{"vault.example.com", "vault.io"}, role.BoundAudiences)

	sh = exec.Command("sh")
	must.NoError(t, os.WriteFile(filepath.Join(dir, "vault"), []byte("#!/bin/sh\nexit 3\n"), 0o755))
	sh.Env, sh.Stdin = []string{"PATH=" + dir + ":" + os.Getenv("PATH")}, strings.NewReader(script.String())
	must.Error(t, sh.Run(), must.Sprint("set -e"))
}

// What means something to a shell, to HCL or to Vault's patterns is refused.
func TestNothingIsInjected(t *testing.T) {
	job := func(id, role, namespace, path string) *jobfile.File {
		quote := func(s string) string {
			b, _ := json.Marshal(s)
			return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(string(b))
		}
		return parse(t, "job", []byte(`job `+quote(id)+` {
  group "app" {
    task "app" {
      driver = "docker"
      config {
        image     = "x"
        role      = `+quote(role)+`
        namespace = `+quote(namespace)+`
        secret "a" {
          path  = `+quote(path)+`
          files = true
        }
      }
    }
  }
}`))
	}
	_, err := Of(t.Context(), job("web", "web", "team", "secret/a-1.x/y_z@b"), options())
	must.NoError(t, err)
	for _, bad := range []string{`a"b`, "a'b", "a$(id)", "a`id`", `a\b`, "a{{identity.entity.id}}", "a*", "+", "a;b", "a&b", "a|b", "a#b", "é", "-x"} {
		for what, file := range map[string]*jobfile.File{
			"role": job("web", bad, "", "secret/a"), "namespace": job("web", "web", bad, "secret/a"), "path": job("web", "web", "", "secret/x"+bad),
		} {
			if what == "path" && (bad == "-x") {
				continue // in the midst of a path it is nothing
			}
			_, err := Of(t.Context(), file, options())
			must.ErrorContains(t, err, "write it by hand", must.Sprintf("%s %q", what, bad))
		}
	}
	bad := options()
	bad.AuthPath = "jwt'; id; '"
	_, err = Of(t.Context(), job("web", "web", "", "secret/a"), bad)
	must.ErrorContains(t, err, "write it by hand")

	// A job's own name goes into comments and JSON alone, and into a role's name without what is not for one.
	plan, err := Of(t.Context(), job("x'\nPOLICY\nid", "", "", "secret/a"), options())
	must.NoError(t, err)
	var script strings.Builder
	must.NoError(t, plan.WriteScript(&script))
	must.StrNotContains(t, script.String(), "\nPOLICY\nid")
	must.Eq(t, "x-POLICY-id", plan.Roles[0].Name)
}

// fakeServer knows one mount.
type fakeServer struct{ vault.Mount }

func (f fakeServer) MountOf(_ context.Context, _ secrets.Token, _, path string) (vault.Mount, bool, error) {
	return f.Mount, strings.HasPrefix(path, f.Path), nil
}

// What the operator says of a mount counts, then what the server says; else it is guessed, and the policy says so.
func TestMounts(t *testing.T) {
	of := func(path string, o Options) Grant {
		file := parse(t, "job", []byte(`job "web" {
  group "app" {
    task "app" {
      driver = "docker"
      config {
        image = "x"
        role  = "web"
        secret "a" {
          path  = "`+path+`"
          files = true
        }
      }
    }
  }
}`))
		o.AuthPath = "jwt"
		plan, err := Of(t.Context(), file, o)
		must.NoError(t, err)
		return plan.Roles[0].Grants[0]
	}
	server := Options{Server: fakeServer{vault.Mount{Path: "team/kv/", Type: "kv", V2: true}}}
	must.Eq(t, "team/kv/data/a", of("team/kv/a", server).Path)
	both := server
	both.Mounts = []vault.Mount{{Path: "team/", Type: "kv"}}
	must.Eq(t, "team/kv/a", of("team/kv/a", both).Path)
	guess := of("other/kv/a", server)
	must.Eq(t, "other/data/kv/a", guess.Path)
	must.StrContains(t, guess.Note, "Guessed: other/ is a KV version 2. If it is not, say so: -mount other=kv1")
	engine := of("db/creds/a", server)
	must.Eq(t, "db/creds/a", engine.Path)
	must.StrContains(t, engine.Note, "Guessed: at db/ is an engine that makes credentials")
	must.StrContains(t, of("team/kv/a", server).Note, "the policy names team/kv/a as the API does")
}

// A path that is likely mistyped is granted as it is written, and the policy says so: by what is known of the mount, or by the path.
func TestMistypedPath(t *testing.T) {
	of := func(path string, o Options) Role {
		src := strings.Replace(several, `path = "database/creds/app"`, `path = "`+path+`"`, 1)
		plan, err := Of(t.Context(), parse(t, "job", []byte(src)), o)
		must.NoError(t, err)
		return plan.Roles[0]
	}
	const note = `Look at secret "db": path "database/cred/app": the engine "database" has credentials at creds/ and static-creds/: is "cred/app" mistyped?`
	known := of("database/cred/app", options())
	must.SliceContains(t, known.Notes, note)
	must.StrContains(t, known.Policy(), "# "+note)
	guessed := of("db/cred/app", options())
	must.StrContains(t, strings.Join(guessed.Notes, " "), `Look at secret "db": path "db/cred/app": engines that make credentials`)
	must.StrNotContains(t, strings.Join(of("database/creds/app", options()).Notes, " "), "Look at secret")
}

// What a start would refuse has no policy.
func TestBrokenJob(t *testing.T) {
	_, err := Of(t.Context(), parse(t, "job", []byte(strings.Replace(several, `path = "database/creds/app"`, `path = "sys/x"`, 1))), options())
	must.ErrorContains(t, err, `job:16: task "app": secret "db": path "sys/x"`)
	_, err = Of(t.Context(), parse(t, "job", []byte(strings.Replace(several, `"pki/issue/web"`, `"secret/x"`, 1))), options())
	must.ErrorContains(t, err, "`params` would overwrite the secret")
}

// Variables that are the task's own need nothing; others an ACL policy that is bound to the task.
func TestVariables(t *testing.T) {
	const job = `job "web" {
  namespace = "shop"
  group "app" {
    task "app" {
      driver = "docker"
      config {
        image = "app"
        secret "own" {
          provider = "nomad"
          path     = "nomad/jobs/web/app"
          env      = { A = "a" }
        }
        secret "theirs" {
          provider = "nomad"
          path     = "%s"
          env      = { B = "b" }
        }
      }
    }
  }
}
`
	src := []byte(fmt.Sprintf(job, "shared/db"))
	plan, err := Of(t.Context(), parse(t, "job", src), options())
	must.NoError(t, err)
	must.SliceEmpty(t, plan.Roles)
	var script, policies strings.Builder
	must.NoError(t, plan.WriteScript(&script))
	golden(t, "variables.sh", script.String())
	must.NoError(t, plan.WritePolicies(&policies))
	must.StrContains(t, policies.String(), `path "shared/db"`)
	must.Eq(t, map[string][]string{}, granted(t, policies.String())) // all of it is comments

	plan, err = Of(t.Context(), parse(t, "job", []byte(fmt.Sprintf(job, "nomad/jobs/${NOMAD_META_x}"))), options())
	must.NoError(t, err)
	must.True(t, plan.Incomplete)
	must.StrContains(t, plan.Notes[0], `secret "theirs" of task "app"`)
}

// webJob is a job of one task: more of the job, of the task and of its config.
func webJob(t *testing.T, job, task, config string) *jobfile.File {
	t.Helper()
	return parse(t, "job", fmt.Appendf(nil, "job \"web\" {\n%s\ngroup \"app\" {\ntask \"app\" {\ndriver = \"docker\"\n%s\nconfig {\nimage = \"x\"\n%s\n}\n}\n}\n}\n", job, task, config))
}

const appSecret = "role = \"web\"\nsecret \"a\" {\npath = \"secret/%s\"\nfiles = true\n}\n"

// Policy and role are for the namespace that the task reads in, which a vault block or the job's env may say. One that only Nomad
// knows has neither: they would be in the wrong one.
func TestNamespaces(t *testing.T) {
	for task, want := range map[string]string{
		"": "", "vault {\nrole = \"web\"\nnamespace = \"team-a\"\n}": "team-a", "env {\nVAULT_NAMESPACE = \"team-b\"\n}": "team-b",
		"vault {\nrole = \"web\"\nnamespace = \"team-a\"\nenv = false\n}": "",
	} {
		plan, err := Of(t.Context(), webJob(t, "", task, fmt.Sprintf(appSecret, "a")), options())
		must.NoError(t, err)
		must.False(t, plan.Incomplete)
		must.EqOp(t, want, plan.Roles[0].Namespace)
		var script strings.Builder
		must.NoError(t, plan.WriteScript(&script))
		must.EqOp(t, want != "", strings.Contains(script.String(), "vault policy write -namespace='"+want+"' 'web' -"))
	}
	for task, config := range map[string]string{
		"vault {\nrole = \"web\"\nnamespace = \"${meta.team}\"\n}": "", "env {\nVAULT_NAMESPACE = \"${meta.team}\"\n}": "", "": "namespace = \"${meta.team}\"\n",
	} {
		plan, err := Of(t.Context(), webJob(t, "", task, fmt.Sprintf(appSecret, "a")+config), options())
		must.NoError(t, err)
		must.True(t, plan.Incomplete)
		must.SliceEmpty(t, plan.Roles)
		var script, policies strings.Builder
		must.NoError(t, plan.WriteScript(&script))
		must.NoError(t, plan.WritePolicies(&policies))
		for _, text := range []string{script.String(), policies.String()} {
			must.StrContains(t, text, `# Not here: task "app": its namespace "${meta.team}" is known only when Nomad starts the task.`)
			must.StrNotContains(t, text, "not_known")
			must.StrNotContains(t, text, "vault policy write")
			must.StrNotContains(t, text, "Nothing:")
		}
	}
}

// A run of a periodic or parameterized job has an ID of its own: what names it is not known here.
func TestJobsOfJobs(t *testing.T) {
	periodic := "type = \"batch\"\nperiodic {\ncrons = [\"@daily\"]\n}"
	for path, want := range map[string]string{
		"${NOMAD_JOB_ID}": "", "${NOMAD_JOB_NAME}": "", "${NOMAD_JOB_PARENT_ID}": "secret/data/web",
	} {
		plan, err := Of(t.Context(), webJob(t, periodic, "", fmt.Sprintf(appSecret, path)), options())
		must.NoError(t, err)
		must.EqOp(t, want == "", plan.Incomplete)
		must.EqOp(t, "web", plan.Roles[0].JWT.BoundClaims.JobID)
		if want != "" {
			must.Eq(t, want, plan.Roles[0].Grants[0].Path)
		} else {
			must.SliceEmpty(t, plan.Roles[0].Grants)
		}
	}
	for path, incomplete := range map[string]bool{"nomad/jobs/${NOMAD_JOB_ID}": true, "nomad/jobs/${NOMAD_JOB_PARENT_ID}": false} {
		plan, err := Of(t.Context(), webJob(t, periodic, "", fmt.Sprintf("secret \"a\" {\nprovider = \"nomad\"\npath = \"%s\"\nfiles = true\n}", path)), options())
		must.NoError(t, err)
		must.EqOp(t, incomplete, plan.Incomplete)
		must.SliceEmpty(t, plan.Variables)
	}
	plan, err := Of(t.Context(), webJob(t, `name = "The Web"`, "", fmt.Sprintf(appSecret, "${NOMAD_JOB_ID}/${NOMAD_JOB_NAME}")), options())
	must.NoError(t, err)
	must.Eq(t, "secret/data/web/The Web", plan.Roles[0].Grants[0].Path)
	must.EqOp(t, "web", plan.Roles[0].JWT.BoundClaims.JobID)
}

// A role or a provider that only Nomad knows makes the plan incomplete, and says so.
func TestUnknownRoleAndProvider(t *testing.T) {
	for task, config := range map[string]string{
		"": "role = \"${meta.role}\"\n", "vault {\nrole = \"${meta.role}\"\n}": "",
	} {
		plan, err := Of(t.Context(), webJob(t, "", task, config+"secret \"a\" {\npath = \"secret/a\"\nfiles = true\n}\n"), options())
		must.NoError(t, err)
		must.True(t, plan.Incomplete)
		must.StrContains(t, plan.Roles[0].Notes[0], `the name of the role of task "app": "${meta.role}" is known only when`)
		must.Eq(t, map[string][]string{"secret/data/a": {"read"}}, granted(t, plan.Roles[0].Policy()))
	}
	plan, err := Of(t.Context(), webJob(t, "", "", "secret \"a\" {\nprovider = \"${meta.p}\"\npath = \"secret/a\"\nfiles = true\n}\n"), options())
	must.NoError(t, err)
	must.True(t, plan.Incomplete)
	must.SliceEmpty(t, plan.Roles)
	must.StrContains(t, plan.Notes[0], `secret "a" of task "app": its provider "${meta.p}" is known only when`)
}

// No two tasks have one name for their ACL policies, which are those of all of Nomad's namespaces; and Nomad takes each.
func TestPolicyNames(t *testing.T) {
	must.EqOp(t, "web-app-server", policyName("default", "web", "app", "server"))
	must.EqOp(t, policyName("shop", "web", "app", "server"), policyName("shop", "web", "app", "server"))
	long := strings.Repeat("a", 111-len("-app-server"))
	must.EqOp(t, long+"-app-server", policyName("default", long, "app", "server"))
	hash := strings.TrimPrefix(policyName("shop", "web", "app", "server"), "web-app-server-")
	parts := []string{"web", "a-b", "a", "b-c", "c", "b", "a_b", "a.b", "a b", "_", "-", "-a", strings.Repeat("x", 200), strings.Repeat("x", 200) + "y", hash, long}
	taken := map[string][]string{}
	for _, namespace := range []string{"default", "shop", "a-b"} {
		for _, job := range parts {
			for _, group := range parts {
				for _, task := range parts {
					name := policyName(namespace, job, group, task)
					must.RegexMatch(t, structs.ValidPolicyName, name)
					must.StrNotHasPrefix(t, "-", name)
					is := []string{namespace, job, group, task}
					must.Nil(t, taken[name], must.Sprintf("%q and %q are both %s", taken[name], is, name))
					taken[name] = is
				}
			}
		}
	}
}
