package check

import (
	"cmp"
	"slices"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/jobfile"
)

// Severity sorts findings.
type Severity string

// An error is what a start refuses; a warning is what may not be meant.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Finding is one thing that is wrong with a job.
type Finding struct {
	Severity Severity         `json:"severity"`
	At       jobfile.Position `json:"at"`
	Group    string           `json:"group,omitempty"`
	Task     string           `json:"task,omitempty"`
	Text     string           `json:"text"`
}

// Report is what is known of a job.
type Report struct {
	File     string    `json:"file"`
	Job      string    `json:"job,omitempty"`
	Tasks    []Task    `json:"tasks"`
	Findings []Finding `json:"findings"`
	// Rights says whose rights Live judged.
	Rights string `json:"rights,omitempty"`
}

// Task is one task with secrets.
type Task struct {
	Group        string   `json:"group"`
	Name         string   `json:"task"`
	Driver       string   `json:"driver"`
	Identity     string   `json:"identity,omitempty"`
	FromPolicies string   `json:"from_policies,omitempty"`
	Secrets      []Secret `json:"secrets"`
	Files        []string `json:"files,omitempty"` // of several secrets

	tells subject
}

// Secret is one secret, as the task gets it.
type Secret struct {
	Name     string   `json:"name"`
	Provider string   `json:"provider"`
	Path     string   `json:"path"`
	Env      []string `json:"env,omitempty"`
	Files    []string `json:"files,omitempty"`
	LiveDir  string   `json:"live_dir,omitempty"`
	Change   string   `json:"change_mode"`
	Required bool     `json:"required"`
	Mount    string   `json:"mount,omitempty"` // by Live: the engine's type
	Allowed  *bool    `json:"allowed,omitempty"`
}

// Errors is the number of errors among the findings.
func (r *Report) Errors() int { return r.count(Error) }

// Warnings is the number of warnings among the findings.
func (r *Report) Warnings() int { return r.count(Warning) }

func (r *Report) count(s Severity) (n int) {
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// sort puts findings in the order of the file, errors of a line first, and takes out what is there twice.
func (r *Report) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.At.Line, b.At.Line), cmp.Compare(a.Severity, b.Severity))
	})
	r.Findings = slices.Compact(r.Findings)
}
