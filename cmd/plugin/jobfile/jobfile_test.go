package jobfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

const job = `variable "tag" {
  default = "1"
}

job "web" {
  group "app" {
    task "app" {
      driver = "docker"
      config {
        image = "app:${var.tag}"
        secret "a" {
          path = "secret/a"
          env = {
            USER  = "user"
            "A-B" = "x"
          }
        }
        secret "b" {
          path = "secret/b"
          params {
            x = "y"
          }
          params {
            z = "y"
          }
        }
        secret "b" {
          file "x/y" {
            field = "f"
          }
        }
        list = [{ one = 1 }, ({
          two = 2
        })]
      }
    }
  }
  group "more" {
    dynamic "task" {
      for_each = ["x"]
      labels   = [task.value]
      content {
        driver = "docker"
        config {
          image = "y"
        }
      }
    }
  }
}
`

func TestFind(t *testing.T) {
	f, problems := Parse("job", []byte(job), Options{})
	must.SliceEmpty(t, problems)
	must.Eq(t, "app:1", f.Job.TaskGroups[0].Tasks[0].Config["image"].(string))
	at := func(line string) int {
		before, _, found := strings.Cut(job, line)
		must.True(t, found, must.Sprint(line))
		return strings.Count(before, "\n") + 1
	}
	for _, tc := range []struct {
		place Place
		line  int
	}{
		{Place{}, at(`job "web"`)},
		{Place{Group: "app"}, at(`group "app"`)},
		{Place{Group: "app", Task: "app"}, at(`task "app"`)},
		{Place{Group: "app", Task: "app", Steps: []string{"driver"}}, at("driver =")},
		{Place{Group: "app", Task: "app", Steps: []string{"config"}}, at("config {")},
		{Place{Group: "app", Task: "app", Steps: []string{"config", "secret", "a"}}, at(`secret "a"`)},
		{Place{Group: "app", Task: "app", Steps: []string{"config", "secret", "a", "path"}}, at(`path = "secret/a"`)},
		{Place{Group: "app", Task: "app", Steps: []string{"config", "secret", "a", "nothing"}}, at(`secret "a"`)},
		{Place{Group: "app", Task: "app", Steps: []string{"config", "secret", "a", "env"}}, at("env = {")},
		{Place{Group: "app", Task: "app", Steps: []string{"config", "secret", "a", "env", "USER"}}, at("USER ")},
		{Place{Group: "app", Task: "app", Steps: []string{"config", "secret", "a", "env", "A-B"}}, at(`"A-B"`)},
		{Place{Group: "app", Task: "app", Steps: []string{"config", "secret", "a", "env", "NONE"}}, at("env = {")},
		{Place{Group: "app", Task: "app", Steps: []string{"config", "secret", "b", "params", "z"}}, at(`z = "y"`)},
		{Place{Group: "app", Task: "app", Steps: []string{"config", "secret", "b"}, Nth: 1}, at(`secret "b" {
          file`)},
		{Place{Group: "app", Task: "app", Steps: []string{"config", "secret", "b", "file", "x/y", "field"}}, at("field =")},
		{Place{Group: "app", Task: "app", Steps: []string{"config", "list", "two"}}, at("two =")},
		{Place{Group: "app", Task: "app", Steps: []string{"config", "secret", "none", "path"}}, at("config {")},
		{Place{Group: "app", Task: "none", Steps: []string{"config"}}, at(`group "app"`)},
		{Place{Group: "more", Task: "x", Steps: []string{"config", "image"}}, at(`image = "y"`)},
		{Place{Group: "more", Task: "x"}, at(`dynamic "task"`)},
	} {
		must.Eq(t, tc.line, f.Find(tc.place).Line, must.Sprintf("%+v", tc.place))
	}
}

// A job is the same whether it is HCL, HCL's JSON or the API's.
func TestForms(t *testing.T) {
	for _, src := range []string{
		"\xef\xbb\xbfjob \"web\" {\n group \"app\" {\n task \"app\" {\n driver = \"docker\"\n config {\n image = \"x\"\n}\n}\n}\n}",
		"\n {\"job\": {\"web\": {\"group\": {\"app\": {\"task\": {\"app\": {\"driver\": \"docker\", \"config\": {\"image\": \"x\"}}}}}}}}",
		`{"Job": {"ID": "web", "Name": "web", "TaskGroups": [{"Name": "app", "Tasks": [{"Name": "app", "Driver": "docker", "Config": {"image": "x"}}]}]}}`,
		`{"ID": "web", "Name": "web", "TaskGroups": [{"Name": "app", "Tasks": [{"Name": "app", "Driver": "docker", "Config": {"image": "x"}}]}]}`,
	} {
		f, problems := Parse("job", []byte(src), Options{})
		must.SliceEmpty(t, problems, must.Sprint(src))
		must.Eq(t, "web", f.ID())
		must.Eq(t, "x", f.Job.TaskGroups[0].Tasks[0].Config["image"].(string))
	}
	f, problems := Parse("job", []byte(`{"Job": {"ID": "web", "TaskGroups": [null]}}`), Options{})
	must.Len(t, 1, problems)
	must.Nil(t, f.Job)
}

// Variables come from the command line, from files and from the environment, as they do for Nomad.
func TestVariables(t *testing.T) {
	src := []byte("variable \"tag\" {}\njob \"web\" {\n group \"app\" {\n task \"app\" {\n driver = \"docker\"\n config {\n image = var.tag\n}\n}\n}\n}")
	file := filepath.Join(t.TempDir(), "vars.hcl")
	must.NoError(t, os.WriteFile(file, []byte(`tag = "2"`), 0o600))
	for want, o := range map[string]Options{
		"1": {Vars: []string{"tag=1"}},
		"2": {VarFiles: []string{file}},
		"3": {Env: []string{"NOMAD_VAR_tag=3"}},
	} {
		f, problems := Parse("job", src, o)
		must.SliceEmpty(t, problems)
		must.Eq(t, want, f.Job.TaskGroups[0].Tasks[0].Config["image"].(string))
	}
	_, problems := Parse("job", src, Options{})
	must.Len(t, 1, problems)
	must.Eq(t, 1, problems[0].At.Line)
	must.StrContains(t, problems[0].Text, "tag")
}

// FuzzFind: no file and no place brings the finder down, and what it finds is a line of the file.
func FuzzFind(f *testing.F) {
	f.Add([]byte(job), "app", "app", "config/secret/a/env/USER", 0)
	f.Add([]byte(job), "more", "x", "config/image", 1)
	f.Add([]byte("job \"\" {\n config = [{}, {a = 1}]\n}"), "", "", "config/a", 3)
	f.Add([]byte("{\"job\": {}}"), "a", "b", "c", -1)
	f.Fuzz(func(t *testing.T, src []byte, group, task, steps string, nth int) {
		file, _ := Parse("job", src, Options{})
		at := file.Find(Place{Group: group, Task: task, Steps: strings.Split(steps, "/"), Nth: nth})
		must.Eq(t, "job", at.File)
		must.Between(t, 0, at.Line, strings.Count(string(src), "\n")+1)
	})
}
