package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/agentconf"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/leakscan"
)

// Options say what to look at.
type Options struct {
	Paths []string // the agent's -config; none: the running agent's
	// All has images' layers and volumes looked at, too.
	All bool
}

// Leak is a value that was found in a place where it must not be.
type Leak struct {
	Task
	Value string `json:"value"` // which one, never the value
	Where string `json:"where"` // the kind of place
	Place string `json:"place"`
	Form  string `json:"form"`
	Count int    `json:"count"`
}

// Report is what an audit found, and what it looked at.
type Report struct {
	Tasks  []Task   `json:"tasks"`
	Values int      `json:"values"`
	Places int      `json:"places"`
	Bytes  int64    `json:"bytes"`
	Leaks  []Leak   `json:"leaks"`
	Errors []string `json:"errors"` // what could not be looked at

	NotLookedFor struct {
		Short    int `json:"short"`
		Ordinary int `json:"ordinary"`
		Public   int `json:"public"`
		TooMany  int `json:"too_many"`
	} `json:"not_looked_for"`
	NotLookedAt []string `json:"not_looked_at"`
	// More is how many leaks and places there were beyond those that are listed.
	More int `json:"more"`
}

// Clean reports whether all was looked at, and nothing was found.
func (r Report) Clean() bool { return len(r.Leaks) == 0 && len(r.Errors) == 0 && r.More == 0 }

// Run audits this node.
func Run(ctx context.Context, o Options) (Report, error) {
	config, agent, err := agentconf.Find(ctx, o.Paths)
	if err != nil {
		return Report{}, err
	}
	if config.DataDir == "" {
		return Report{}, errors.New("the agent's configuration has no data_dir: give all of it with -config")
	}
	a := audit{ctx: ctx, values: newValues(), config: config, all: o.All}
	if agent != nil {
		a.agent = agent.PID
	}
	a.readSettings()
	a.collect()
	a.scan()
	return a.finish(), nil
}

// audit is one run.
type audit struct {
	ctx     context.Context
	values  *values
	config  agentconf.Config
	agent   int // the process; 0: none
	all     bool
	plugins map[string]driver.Settings
	report  Report
}

// failed notes what could not be looked at.
func (a *audit) failed(what string, err error) {
	if err == nil {
		return
	}
	for line := range strings.Lines(err.Error()) {
		a.report.Errors = append(a.report.Errors, what+": "+printable(strings.TrimSpace(line)))
	}
}

// readSettings reads the blocks of this program's drivers. One that is in none of them has the defaults.
func (a *audit) readSettings() {
	a.plugins = map[string]driver.Settings{}
	for _, name := range driver.Names() {
		p, ok := a.config.Plugin(name)
		s, err := driver.ReadSettings(a.ctx, name, p.Config)
		switch {
		case err != nil:
			a.failed("plugin "+name, err)
		case ok, s.OfEngine && s.InPlace: // Nomad's own, too, needs no block
			a.plugins[name] = s
		}
	}
}

// stateDirs are those of all plugins.
func (a *audit) stateDirs() []string {
	dirs := map[string]bool{}
	for _, s := range a.plugins {
		dirs[s.StateDir] = true
	}
	return slices.Sorted(maps.Keys(dirs))
}

// collect learns what to look for.
func (a *audit) collect() {
	configs := map[taskKey]ours{}
	for _, dir := range a.stateDirs() {
		found, err := a.values.collectJournals(dir)
		a.failed("journal in "+dir, err)
		maps.Copy(configs, found)
	}
	a.failed("secrets directories", a.values.collectFiles(a.ctx, a.config.AllocDir))
	a.failed("processes", a.values.collectProcesses(configs))
}

// scan looks for all values in all places.
func (a *audit) scan() {
	sources := a.sources()
	canaries, find := a.values.canaries()
	var leaks leaks
	for i, group := range leakscan.Split(canaries) {
		scanner, err := leakscan.New(group...)
		if err != nil {
			a.failed("scan", err)
			return
		}
		report, err := scanner.Scan(a.ctx, sources...)
		a.failed("scan", err)
		for _, hit := range report.Hits {
			leaks.add(find[hit.Canary], hit)
		}
		a.report.More += report.More
		if i > 0 { // the same places again, for other values
			continue
		}
		for _, n := range report.Places {
			a.report.Places += n
		}
		for _, n := range report.Bytes {
			a.report.Bytes += n
		}
		for _, place := range report.Skipped {
			a.report.NotLookedAt = append(a.report.NotLookedAt, printable(place))
		}
	}
	a.report.Leaks = leaks.all
	a.report.Values = len(canaries)
}

func (a *audit) finish() Report {
	r, v := a.report, a.values
	for _, t := range v.tasks {
		r.Tasks = append(r.Tasks, *t)
	}
	slices.SortFunc(r.Tasks, func(a, b Task) int { return strings.Compare(a.Alloc+a.Name, b.Alloc+b.Name) })
	slices.SortFunc(r.Leaks, func(a, b Leak) int {
		return strings.Compare(a.Alloc+a.Name+a.Where+a.Place, b.Alloc+b.Name+b.Where+b.Place)
	})
	n := &r.NotLookedFor
	n.Short, n.Ordinary, n.Public, n.TooMany = v.Short, v.Ordinary, v.Public, v.TooMany
	return r
}

// leaks gathers hits: a value in a place is one leak, in however many forms.
type leaks struct {
	all   []Leak
	index map[string]int
}

func (l *leaks) add(v *value, hit leakscan.Hit) {
	if l.index == nil {
		l.index = map[string]int{}
	}
	for _, o := range ownersIn(v, hit.Place) {
		key := fmt.Sprintf("%p\x00%s\x00%s\x00%s", o.task, o.what, hit.Source, hit.Place)
		if i, ok := l.index[key]; ok {
			l.all[i].Count += hit.Count
			continue
		}
		l.index[key] = len(l.all)
		l.all = append(l.all, Leak{
			Task: *o.task, Value: printable(o.what), Where: hit.Source, Place: printable(hit.Place), Form: hit.Form, Count: hit.Count,
		})
	}
}

// ownersIn are the tasks that a value in a place is of: where several have it, the one whose allocation the place is of.
func ownersIn(v *value, place string) []owner {
	var there []owner
	for _, o := range v.owners {
		if o.task.Alloc != "" && strings.Contains(place, o.task.Alloc) {
			there = append(there, o)
		}
	}
	if len(there) == 0 {
		return v.owners
	}
	return there
}
