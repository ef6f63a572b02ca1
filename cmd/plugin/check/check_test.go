package check

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/jobfile"
)

var update = flag.Bool("update", false, "write what is expected anew")

// around is what a section of a testdata file stands in.
var around = map[string]string{
	"job": "%s",
	"task": `job "web" {
  group "app" {
    constraint {
      attribute = "${attr.driver.docker.secrets}"
      operator  = "is_set"
    }
    task "app" {
      driver = "docker"
%s    }
  }
}
`,
	"": `job "web" {
  group "app" {
    constraint {
      attribute = "${attr.driver.docker.secrets}"
      operator  = "is_set"
    }
    task "app" {
      driver = "docker"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        image = "app:1"
%s      }
    }
  }
}
`,
}

var section = regexp.MustCompile(`(?m)^=== (.*?)(?: \((task|job)\))?\n`)

// sections runs a test on each job of a testdata file: it gives what is found.
func sections(t *testing.T, name string, look func(t *testing.T, job string) *Report) (count int) {
	t.Helper()
	path := filepath.Join("testdata", name)
	src, err := os.ReadFile(path)
	must.NoError(t, err)
	heads := section.FindAllStringSubmatchIndex(string(src), -1)
	var out strings.Builder
	out.Write(src[:heads[0][0]])
	for i, h := range heads {
		end := len(src)
		if i+1 < len(heads) {
			end = heads[i+1][0]
		}
		title, kind := string(src[h[2]:h[3]]), ""
		if h[4] >= 0 {
			kind = string(src[h[4]:h[5]])
		}
		job, want, found := strings.Cut(string(src[h[1]:end]), "---\n")
		must.True(t, found, must.Sprint(title))
		var got strings.Builder
		t.Run(title, func(t *testing.T) {
			report := look(t, fmt.Sprintf(around[kind], job))
			for _, f := range report.Findings {
				fmt.Fprintf(&got, "%s: %s: %s\n", f.At, f.Severity, f.Text)
			}
			if !*update {
				must.EqOp(t, strings.TrimSpace(want), strings.TrimSpace(got.String()))
			}
		})
		fmt.Fprintf(&out, "%s%s---\n%s\n", src[h[0]:h[1]], job, got.String())
	}
	if *update {
		must.NoError(t, os.WriteFile(path, []byte(strings.TrimRight(out.String(), "\n")+"\n"), 0o644))
	}
	return len(heads)
}

// look checks a job's text.
func look(t *testing.T, job string) *Report {
	t.Helper()
	file, problems := jobfile.Parse("job", []byte(job), jobfile.Options{})
	if len(problems) > 0 {
		return Unreadable(file, problems)
	}
	return Job(file, Options{})
}

// What a start would refuse is an error, at its line.
func TestBroken(t *testing.T) {
	n := sections(t, "broken.txt", func(t *testing.T, job string) *Report {
		r := look(t, job)
		must.Positive(t, r.Errors(), must.Sprint("no error"))
		return r
	})
	must.GreaterEq(t, 60, n)
}

// What may not be meant is a warning, and what only Nomad knows is nothing.
func TestWarnings(t *testing.T) {
	sections(t, "warnings.txt", func(t *testing.T, job string) *Report {
		r := look(t, job)
		must.Zero(t, r.Errors(), must.Sprintf("%v", r.Findings))
		return r
	})
}

// parseFile reads one of the project's jobs.
func parseFile(t *testing.T, path string) *jobfile.File {
	t.Helper()
	src, err := os.ReadFile(path)
	must.NoError(t, err)
	file, problems := jobfile.Parse(path, src, jobfile.Options{})
	must.SliceEmpty(t, problems)
	return file
}

// The examples have no errors.
func TestExamplesAreRight(t *testing.T) {
	for _, pattern := range []string{"*.nomad.hcl", "from_policies/*.nomad.hcl", "volumes/*.nomad.hcl"} {
		files, err := filepath.Glob("../../../jobs/" + pattern)
		must.NoError(t, err)
		must.SliceNotEmpty(t, files)
		for _, path := range files {
			t.Run(filepath.Base(path), func(t *testing.T) {
				r := Job(parseFile(t, path), Options{})
				must.Zero(t, r.Errors(), must.Sprintf("%v", r.Findings))
				if pattern == "*.nomad.hcl" {
					must.SliceNotEmpty(t, r.Tasks)
				}
			})
		}
	}
}

// A job of 100 tasks: each one's mistake is found at its own line.
func TestManyTasks(t *testing.T) {
	var b strings.Builder
	b.WriteString("job \"many\" {\n")
	want := map[string]int{}
	for g := range 10 {
		fmt.Fprintf(&b, "group \"g%d\" {\n", g)
		for n := range 10 {
			fmt.Fprintf(&b, "task \"t%d\" {\ndriver = \"docker\"\nvault {\nchange_mode = \"noop\"\n}\nconfig {\nimage = \"x\"\nsecret \"a\" {\npath = \"secret/a\"\nenv = { A = \"a\" }\n", n)
			b.WriteString("splay = \"soon\"\n")
			want[fmt.Sprintf("g%d/t%d", g, n)] = strings.Count(b.String(), "\n")
			b.WriteString("}\n}\n}\n")
		}
		b.WriteString("}\n")
	}
	b.WriteString("}\n")
	r := look(t, b.String())
	must.Len(t, 100, r.Tasks)
	must.Eq(t, 100, r.Errors())
	for _, f := range r.Findings {
		if f.Severity == Error {
			must.Eq(t, want[f.Group+"/"+f.Task], f.At.Line)
		}
	}
}

const shown = `job "web" {
  group "app" {
    task "app" {
      driver = "docker"
      identity {
        name     = "vault"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        image = "app:1"
        role  = "web"
        secret "database" {
          path          = "a/very/long/path/of/a/database/creds/application-one"
          env           = { DATABASE_USERNAME = "username", DATABASE_PASSWORD = "password" }
          change_mode   = "signal"
          change_signal = "SIGHUP"
          file "database/credentials.env" {
            field = "username"
          }
        }
        secret "app" {
          path       = "secret/${meta.team}/app"
          env_prefix = "APP_"
          files      = true
          live_dir   = "/run/app"
          required   = false
        }
        file "all.conf" {
          template = "{{ .app.x }}"
        }
      }
    }
  }
}
`

// On a terminal of 80 columns the table fits; in a pipe a secret is one line.
func TestPrint(t *testing.T) {
	r := look(t, shown)
	var terminal, pipe strings.Builder
	must.NoError(t, r.Print(&terminal, Style{Width: 80, Color: true}))
	table, findings, _ := strings.Cut(terminal.String(), "\n\n")
	for line := range strings.Lines(table) {
		must.LessEq(t, 80, len(strings.TrimSuffix(line, "\n")), must.Sprint(line))
	}
	must.StrContains(t, findings, "\x1b[33mwarning\x1b[0m")
	must.NoError(t, r.Print(&pipe, Style{}))
	path := filepath.Join("testdata", "shown.txt")
	if *update {
		must.NoError(t, os.WriteFile(path, []byte(pipe.String()), 0o644))
	}
	want, err := os.ReadFile(path)
	must.NoError(t, err)
	must.EqOp(t, string(want), pipe.String())
}

// The JSON has all that the table has.
func TestJSON(t *testing.T) {
	b, err := json.Marshal(look(t, shown))
	must.NoError(t, err)
	var r struct {
		Tasks []struct {
			Secrets []struct {
				Name, Path string
				Required   bool
				Change     string `json:"change_mode"`
			}
		}
		Findings []struct{ Severity, At, Text string }
	}
	must.NoError(t, json.Unmarshal(b, &r))
	must.Eq(t, "secret/${meta.team}/app", r.Tasks[0].Secrets[0].Path)
	must.False(t, r.Tasks[0].Secrets[0].Required)
	must.Eq(t, "signal SIGHUP", r.Tasks[0].Secrets[1].Change)
	must.Eq(t, "job:3", r.Findings[0].At)
}

// The operator's options: where the identity is, and whether there is need of one.
func TestOptions(t *testing.T) {
	job := strings.ReplaceAll(shown, "private/vault.jwt", "private/other.jwt")
	file, problems := jobfile.Parse("job", []byte(job), jobfile.Options{})
	must.SliceEmpty(t, problems)
	must.Eq(t, 1, Job(file, Options{}).Errors())
	must.Zero(t, Job(file, Options{JWTFile: "private/other.jwt"}).Errors())
	must.Zero(t, Job(file, Options{NodeToken: true}).Errors())
}

// The node's token is for reads in the operator's own namespace, of what the job declares.
func TestNodeToken(t *testing.T) {
	for _, tc := range []struct {
		config, identity string
		want             []string
	}{
		{`secret "a" {
          path  = "secret/a"
          files = true
        }`, "", nil},
		{`secret "a" {
          path   = "pki/issue/web"
          files  = true
          params = { common_name = "x" }
        }`, "", []string{`job:14: error: secret "a": params need an identity of the task's own, and only the node's token is there: give the task an identity block or a vault block`}},
		{`secret "a" {
          path  = "pki/sign/web"
          files = true
          csr {
            common_name = "x"
          }
        }`, "", []string{`job:14: error: secret "a": csr needs an identity of the task's own, and only the node's token is there: give the task an identity block or a vault block`}},
		{`from_policies = "env"`, "", []string{`job:11: error: from_policies needs an identity of the task's own, and only the node's token is there: give the task an identity block or a vault block`}},
		{`from_policies = "off"
        namespace = "team"
        secret "a" {
          path  = "secret/a"
          files = true
        }`, "", []string{`job:12: warning: the node's token is the operator's: a start refuses namespace "team", unless the plugins are set to that`}},
		{`secret "a" {
          path  = "secret/a"
          files = true
        }`, `env { VAULT_NAMESPACE = "team" }`, []string{`job:9: warning: the node's token is the operator's: a start refuses namespace "team", unless the plugins are set to that`}},
		{`from_policies = "env"`, `vault { change_mode = "noop" }`, nil},
	} {
		job := fmt.Sprintf(`job "web" {
  group "app" {
    constraint {
      attribute = "${attr.driver.docker.secrets}"
      operator  = "is_set"
    }
    task "app" {
      driver = "docker"
      %s
      config {
        %s
        image = "x"
      }
    }
  }
}
`, tc.identity, tc.config)
		file, problems := jobfile.Parse("job", []byte(job), jobfile.Options{})
		must.SliceEmpty(t, problems)
		r := Job(file, Options{NodeToken: true})
		var got []string
		for _, f := range r.Findings {
			got = append(got, fmt.Sprintf("%s: %s: %s", f.At, f.Severity, f.Text))
		}
		must.Eq(t, tc.want, got, must.Sprint(tc.config))
		must.EqOp(t, tc.identity == "" || strings.HasPrefix(tc.identity, "env"), r.Tasks[0].Identity == "the node's token")
	}
}
