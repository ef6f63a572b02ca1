package jobfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/jobspec2"
)

// Options are what Nomad's command line takes beside the file.
type Options struct {
	Vars     []string // name=value
	VarFiles []string
	Env      []string // of the process: NOMAD_VAR_name=value
}

// File is a job's file.
type File struct {
	Name string
	Job  *api.Job
	body *hclsyntax.Body // nil: the file is JSON
}

// Problem is what is wrong with a file, by its own rules and Nomad's.
type Problem struct {
	At   Position
	Text string
}

// Position is a line of a file. The zero Position is none.
type Position struct {
	File string
	Line int
}

func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// MarshalText is String.
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Parse reads HCL, HCL's own JSON, or a job as Nomad's API has it (`nomad job run -output`, `nomad job inspect`). Where there
// are problems, File has no job.
func Parse(name string, src []byte, o Options) (*File, []Problem) {
	f := &File{Name: name}
	src = bytes.TrimPrefix(src, []byte("\xef\xbb\xbf"))
	if trimmed := bytes.TrimLeft(src, " \t\r\n"); bytes.HasPrefix(trimmed, []byte("{")) {
		src = trimmed // jobspec2 tells JSON by its first byte
		job, err := fromAPI(src)
		if err != nil {
			return f, []Problem{{Position{File: name}, err.Error()}}
		}
		if job != nil {
			f.Job = job
			return f, f.named()
		}
	} else if file, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos); !diags.HasErrors() {
		f.body, _ = file.Body.(*hclsyntax.Body)
	}
	job, err := parse(&jobspec2.ParseConfig{
		Path: name, Body: src, AllowFS: true, ArgVars: o.Vars, VarFiles: o.VarFiles, Envs: o.Env, Strict: true,
	})
	if err != nil {
		return f, f.problems(err)
	}
	f.Job = job
	return f, f.named()
}

// parse is jobspec2's, of which a file that is damaged enough has brought down the program.
func parse(c *jobspec2.ParseConfig) (job *api.Job, err error) {
	defer func() {
		if p := recover(); p != nil {
			job, err = nil, fmt.Errorf("the file cannot be read as a job: %v", p)
		}
	}()
	return jobspec2.ParseWithConfig(c)
}

// fromAPI reads a job as Nomad's API has it; nil: the JSON is HCL's.
func fromAPI(src []byte) (*api.Job, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal(src, &top); err != nil {
		return nil, fmt.Errorf("the file is not JSON: %w", err)
	}
	raw, wrapped := top["Job"]
	if _, bare := top["TaskGroups"]; bare {
		raw, wrapped = src, true
	}
	if !wrapped {
		return nil, nil
	}
	var job api.Job
	if err := json.Unmarshal(raw, &job); err != nil {
		return nil, fmt.Errorf("the file is not a job as `nomad job run -output` writes it: %w", err)
	}
	return &job, nil
}

// named refuses a job that later steps could not name. Nomad refuses it, too.
func (f *File) named() []Problem {
	if f.Job == nil || f.Job.ID == nil && f.Job.Name == nil {
		f.Job = nil
		return []Problem{{Position{File: f.Name}, "there is no job in the file"}}
	}
	for i, g := range f.Job.TaskGroups {
		if g == nil || g.Name == nil {
			f.Job = nil
			return []Problem{{Position{File: f.Name}, fmt.Sprintf("group %d has no name", i+1)}}
		}
		for n, t := range g.Tasks {
			if t == nil {
				f.Job = nil
				return []Problem{{Position{File: f.Name}, fmt.Sprintf("task %d of group %q is empty", n+1, *g.Name)}}
			}
		}
	}
	return nil
}

// ID is the job's.
func (f *File) ID() string {
	if f.Job.ID != nil {
		return *f.Job.ID
	}
	return *f.Job.Name
}

// JobName is the job's, which is its ID unless it has another.
func (f *File) JobName() string {
	if f.Job.Name != nil && *f.Job.Name != "" {
		return *f.Job.Name
	}
	return f.ID()
}

// MakesJobs reports whether each run is a job of its own, whose ID and name Nomad makes.
func (f *File) MakesJobs() bool { return f.Job.IsPeriodic() || f.Job.IsParameterized() }

// WorkloadID is the ID that the identities of the job's tasks have, and by which Nomad knows their rights: of a job that Nomad
// made of another, the other's.
func (f *File) WorkloadID() string {
	if parent := f.Job.ParentID; parent != nil && *parent != "" {
		return *parent
	}
	return f.ID()
}

// Namespace is the one that the job names; empty: none.
func (f *File) Namespace() string {
	if f.Job.Namespace != nil {
		return *f.Job.Namespace
	}
	return ""
}

// diagnostic is how jobspec2 tells of one: with a range, of which the first line counts.
var diagnostic = regexp.MustCompile(`^(.*?):(\d+),\d+-(?:\d+,)?\d+: (.*)$`)

// unset is how jobspec2 tells of a variable without a value. It forgets where that is.
var unset = regexp.MustCompile(`^Unset variable "([^"]*)"`)

// variable is where one is declared.
func (f *File) variable(name string) Position {
	if f.body != nil {
		if b := blockOf(f.body, "variable", name); b != nil {
			return Position{f.Name, b.DefRange().Start.Line}
		}
	}
	return Position{File: f.Name}
}

// problems takes jobspec2's error apart.
func (f *File) problems(err error) (all []Problem) {
	if diags := (hcl.Diagnostics)(nil); errors.As(err, &diags) {
		for _, d := range diags {
			p := Problem{Position{File: f.Name}, sentence(d.Summary, d.Detail)}
			if d.Subject != nil {
				p.At = Position{d.Subject.Filename, d.Subject.Start.Line}
			}
			if d.Summary == "unsuitable value type" && len(all) > 0 && all[len(all)-1].At == p.At {
				continue // it comes of the problem before
			}
			all = append(all, p)
		}
		return f.hinted(all)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(err.Error()), "\n") {
		if m := diagnostic.FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[2])
			summary, detail, _ := strings.Cut(m[3], "; ")
			all = append(all, Problem{Position{m[1], n}, sentence(summary, detail)})
			continue
		}
		line = strings.TrimPrefix(line, "<nil>: ")
		if m := unset.FindStringSubmatch(line); m != nil {
			all = append(all, Problem{f.variable(m[1]), fmt.Sprintf("variable %q has no value: give it -var %s=VALUE, a -var-file, or a default", m[1], m[1])})
			continue
		}
		if len(all) > 0 && !strings.Contains(line, "; ") { // a detail may go on for lines
			all[len(all)-1].Text += " " + strings.TrimSpace(line)
			continue
		}
		summary, detail, _ := strings.Cut(line, "; ")
		all = append(all, Problem{Position{File: f.Name}, sentence(summary, detail)})
	}
	return f.hinted(all)
}

// sentence is a diagnostic's two texts as one: the second says it all, where there is one.
func sentence(summary, detail string) string {
	text := strings.TrimSpace(summary)
	if detail = strings.TrimSpace(detail); detail != "" {
		text += ": " + detail
	}
	text = strings.TrimSuffix(strings.Join(strings.Fields(text), " "), ".")
	if text == "" {
		return text
	}
	return strings.ToLower(text[:1]) + text[1:]
}

// hinted adds what is likely meant to problems within a `secret` block of Nomad's own, which a task's secrets are easily
// written into.
func (f *File) hinted(all []Problem) []Problem {
	if f.body == nil {
		return all
	}
	for i := range all {
		if f.inOwnSecret(f.body, all[i].At) {
			all[i].Text += " (this is Nomad's own secret block, of a task: the driver's goes into the task's config block)"
		}
	}
	return all
}

func (f *File) inOwnSecret(body *hclsyntax.Body, at Position) bool {
	for _, b := range body.Blocks {
		r := b.Range()
		if at.File != f.Name || at.Line < r.Start.Line || at.Line > b.CloseBraceRange.End.Line {
			continue
		}
		switch b.Type {
		case "secret":
			return true
		case "job", "group", "task":
			return f.inOwnSecret(b.Body, at)
		}
	}
	return false
}
