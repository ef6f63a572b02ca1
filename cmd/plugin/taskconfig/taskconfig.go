package taskconfig

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Problem is what a start would refuse.
type Problem struct {
	Steps []string // the keys and labels that lead to the place within the task's config
	Nth   int      // which of several blocks with those labels
	Text  string
}

// Config is a task's config, decoded.
type Config struct {
	Ours     secrets.TaskConfig
	Spec     *secrets.Spec // nil: the task declares nothing, or something is wrong
	Problems []Problem
	unknown  [][]string        // places whose value is not known here
	standIn  map[string]string // by place, the texts that stand there
	raw      map[string]any
	context  *hcl.EvalContext // what a start fills in, as far as it is known

	namespace string // Vault's, as it is written
}

// Decode decodes the config of a task of a driver of ours.
func Decode(t Task) (*Config, error) {
	d, ok := driver.ForJob(t.Driver)
	if !ok {
		return nil, fmt.Errorf("driver %q has no secrets", t.Driver)
	}
	schema, err := d.TaskSchema()
	if err != nil {
		return nil, err
	}
	c := &Config{raw: t.Config, standIn: map[string]string{}}
	p := &pruner{}
	pruned := p.object(nil, schema.GetObject().GetAttributes(), t.Config)
	c.Problems = p.problems

	v, err := c.evaluate(schema, pruned, t)
	if err != nil {
		return nil, err
	}
	var cfg drivers.TaskConfig
	if err := cfg.EncodeDriverConfig(v); err != nil {
		return nil, fmt.Errorf("encode the config of task %q: %w", t.Name, err)
	}
	if err := cfg.DecodeDriverConfig(&c.Ours); err != nil {
		return nil, fmt.Errorf("decode the config of task %q: %w", t.Name, err)
	}
	c.fit(d.InContainer())
	cfg.Name, cfg.JobID = t.Name, t.Job
	for _, m := range t.VolumeMounts {
		if m != nil {
			cfg.Mounts = append(cfg.Mounts, &drivers.MountConfig{TaskPath: deref(m.Destination)})
		}
	}
	spec, err := d.Check(&cfg, c.Ours)
	for _, problem := range secrets.Problems(err) {
		if !c.reported(problem.Place) {
			c.Problems = append(c.Problems, Problem{Steps: problem.Place, Text: c.asWritten(problem)})
		}
	}
	c.inNamespace(t, spec)
	if len(c.Problems) == 0 {
		c.Spec = spec
	}
	return c, nil
}

// reported says whether a problem of this very place is known already: what the schema refuses is not there afterwards.
func (c *Config) reported(steps []string) bool {
	return len(steps) > 0 && slices.ContainsFunc(c.Problems, func(p Problem) bool {
		return slices.Equal(p.Steps, steps) || len(p.Steps) == len(steps)+1 && slices.Equal(p.Steps[:len(steps)], steps) && strings.HasSuffix(p.Text, " is missing")
	})
}

// Unknown reports whether the value at a place, or a part of it, is not known here.
func (c *Config) Unknown(steps ...string) bool {
	return slices.ContainsFunc(c.unknown, func(u []string) bool { return len(u) >= len(steps) && slices.Equal(u[:len(steps)], steps) })
}

// Written is a text of the config as the job has it, with what Nomad would fill in still in it; "": there is no text at the place.
func (c *Config) Written(steps ...string) string {
	text, _ := written(c.raw, steps).(string)
	return text
}

// ReadsVault reports whether the task needs a token of Vault's to start, as far as is known.
func (c *Config) ReadsVault() bool {
	if from := c.Ours.FromPolicies; from != "" && from != "off" || len(c.Ours.Secrets) == 0 {
		return true
	}
	for name, s := range c.Ours.Secrets {
		if (s.Provider == "" || s.Provider == secrets.DefaultProvider) && !c.Unknown("secret", name, "provider") {
			return true
		}
	}
	return false
}

// written follows steps through maps, and lists of them.
func written(v any, steps []string) any {
	for _, m := range mapsOf(v) {
		inner, ok := m[first(steps)]
		if !ok {
			continue
		}
		if len(steps) <= 1 {
			return inner
		}
		if found := written(inner, steps[1:]); found != nil {
			return found
		}
	}
	return nil
}

func first(steps []string) string {
	if len(steps) == 0 {
		return ""
	}
	return steps[0]
}

// mapsOf are the maps that a value is made of: jobspec2 has blocks as lists of maps, JSON as maps, too.
func mapsOf(v any) (all []map[string]any) {
	switch v := v.(type) {
	case map[string]any:
		return []map[string]any{v}
	case []map[string]any:
		return v
	case []any:
		for _, e := range v {
			m, ok := e.(map[string]any)
			if !ok {
				return nil
			}
			all = append(all, m)
		}
	}
	return all
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
