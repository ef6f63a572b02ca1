package taskconfig

import (
	"path"
	"regexp"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/jobfile"
)

// Task is a task of a job, and where it is in it, as far as the file tells.
type Task struct {
	Job, JobName   string // empty of a job each run of which is one of its own
	Parent         string // the ID of the job that the task's is made of
	Namespace      string
	VaultNamespace string // of the whole job, by nomad job run -vault-namespace
	Group          *api.TaskGroup
	*api.Task
}

// Of is a task of a job's file.
func Of(f *jobfile.File, g *api.TaskGroup, t *api.Task) Task {
	task := Task{
		Job: f.ID(), JobName: f.JobName(), Parent: deref(f.Job.ParentID),
		Namespace: f.Namespace(), VaultNamespace: deref(f.Job.VaultNamespace), Group: g, Task: t,
	}
	if f.MakesJobs() {
		task.Job, task.JobName, task.Parent = "", "", task.Job
		if f.Job.IsPeriodic() && f.Job.IsParameterized() {
			task.Parent = "" // a job that a dispatch makes, and that makes others
		}
	}
	return task
}

// GivenEnv is a variable that the job itself gives the task, in its env or by a template of Nomad's. known: the file tells its
// value.
func (t Task) GivenEnv(name string) (value string, known, given bool) {
	line := regexp.MustCompile(`(?m)^\s*(?:export\s+)?` + regexp.QuoteMeta(name) + `\s*=`)
	for _, tmpl := range t.Templates {
		if tmpl != nil && tmpl.Envvars != nil && *tmpl.Envvars && line.MatchString(deref(tmpl.EmbeddedTmpl)) {
			return "", false, true
		}
	}
	value, given = t.Env[name]
	return value, given && !interpolated(value), given
}

// HasEnv reports whether the job itself gives the task a variable that is likely not empty.
func (t Task) HasEnv(name string) bool {
	value, known, given := t.GivenEnv(name)
	return given && (!known || value != "")
}

// interpolated reports whether Nomad may fill something into a text.
func interpolated(text string) bool { return strings.Contains(text, "${") }

// WrittenTo is where Nomad writes an identity, below the task's directory; empty: nowhere. A filepath is joined to that
// directory, whatever it begins with.
func WrittenTo(id *api.WorkloadIdentity) string {
	switch {
	case !id.File:
		return ""
	case id.Filepath != "":
		return Below(id.Filepath)
	case id.Name == "" || id.Name == "default":
		return "secrets/nomad_token"
	}
	return "secrets/nomad_" + id.Name + ".jwt"
}

// Below is a path that is joined to a directory, in its shortest form.
func Below(p string) string { return path.Clean(strings.TrimLeft(p, "/")) }
