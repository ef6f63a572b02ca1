package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/jobfile"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/taskconfig"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// Mounts tells what engine a path is on; false: it does not know.
type Mounts interface {
	MountOf(ctx context.Context, tok secrets.Token, namespace, path string) (vault.Mount, bool, error)
}

// Options are what the job's file does not tell.
type Options struct {
	Mounts         []vault.Mount // that the operator names
	Server         Mounts        // nil: there is none to ask
	Token          secrets.Token
	NomadNamespace string // of a job that names none
	AuthPath       string // of the JWT auth method
	Task           string // TASK or GROUP/TASK; empty: all
}

// Role is a role and its policy, of the same name: of the tasks that log in with it.
type Role struct {
	Name      string   `json:"name"`
	Tasks     []string `json:"tasks"`               // GROUP/TASK
	Namespace string   `json:"namespace,omitempty"` // Vault's
	Grants    []Grant  `json:"grants"`
	Notes     []string `json:"notes,omitempty"`
	JWT       JWTRole  `json:"jwt_role"`
}

// Grant is one path of a policy.
type Grant struct {
	Path         string   `json:"path"`
	Capabilities []string `json:"capabilities"`
	Note         string   `json:"note,omitempty"`
}

// Plan is what a job needs.
type Plan struct {
	Job      string `json:"job"`
	AuthPath string `json:"auth_path"`
	Roles    []Role `json:"roles"`
	// Variables are the ACL policies of tasks with Nomad Variables that are not theirs by themselves.
	Variables []Variables `json:"nomad_variables,omitempty"`
	Notes     []string    `json:"notes,omitempty"`
	// Incomplete: a path is not known here, and a note says which.
	Incomplete bool `json:"incomplete,omitempty"`

	withoutRole bool // a task's policy is not here at all
}

// Of makes the plan of a job. An error is what keeps it from being safe or complete.
func Of(ctx context.Context, file *jobfile.File, o Options) (*Plan, error) {
	p := &planner{file: file, options: o, plan: &Plan{Job: file.WorkloadID(), AuthPath: o.AuthPath}}
	if err := plain("the auth path", o.AuthPath); err != nil {
		return nil, err
	}
	var errs []error
	found := o.Task == ""
	for _, g := range file.Job.TaskGroups {
		for _, t := range g.Tasks {
			if o.Task != "" && o.Task != t.Name && o.Task != *g.Name+"/"+t.Name {
				continue
			}
			found = true
			errs = append(errs, p.task(ctx, taskconfig.Of(file, g, t)))
		}
	}
	if !found {
		return nil, fmt.Errorf("the job has no task %q", o.Task)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p.plan, nil
}

type planner struct {
	file    *jobfile.File
	options Options
	plan    *Plan
}

// at is where a part of a task stands in the file.
func (p *planner) at(t taskconfig.Task, steps ...string) jobfile.Position {
	return p.file.Find(jobfile.Place{Group: *t.Group.Name, Task: t.Name, Steps: append([]string{"config"}, steps...)})
}

func (p *planner) task(ctx context.Context, t taskconfig.Task) error {
	if _, ours := driver.ForJob(t.Driver); !ours {
		return nil
	}
	c, err := taskconfig.Decode(t)
	if err != nil {
		return err
	}
	if n := len(c.Problems); n > 0 {
		first := c.Problems[0]
		return fmt.Errorf("%s: task %q: %s (%d in all: run check)", p.at(t, first.Steps...), t.Name, first.Text, n)
	}
	if c.Spec == nil {
		return nil
	}
	for _, sec := range c.Spec.Secrets {
		if c.Unknown("secret", sec.Name, "provider") {
			p.plan.Incomplete = true
			p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("Not here: secret %q of task %q: its provider %q is known only when Nomad starts the task.", sec.Name, t.Name, c.Written("secret", sec.Name, "provider")))
		}
	}
	if err := p.variables(t, c); err != nil {
		return fmt.Errorf("%s: task %q: %w", p.at(t), t.Name, err)
	}
	if !c.ReadsVault() {
		return nil
	}
	if namespace, known := c.Namespace(); !known {
		p.plan.Incomplete, p.plan.withoutRole = true, true
		p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("Not here: task %q: its namespace %q is known only when Nomad starts the task. Write its policy and its role by hand, in that namespace.", t.Name, namespace))
		return nil
	}
	r, err := p.roleOf(t, c)
	if err != nil {
		return fmt.Errorf("%s: task %q: %w", p.at(t), t.Name, err)
	}
	for _, sec := range c.Spec.Secrets {
		if sec.Request.Provider != secrets.DefaultProvider || c.Unknown("secret", sec.Name, "provider") {
			continue
		}
		if err := p.secret(ctx, r, c, sec); err != nil {
			return fmt.Errorf("%s: task %q: secret %q: %w", p.at(t, "secret", sec.Name, "path"), t.Name, sec.Name, err)
		}
	}
	if from := c.Ours.FromPolicies; from != "" && from != "off" {
		r.note("from_policies = %q: the task gets what this policy grants, whatever that is. Add the paths that it is to have.", from)
	}
	slices.SortStableFunc(r.Grants, func(a, b Grant) int {
		return cmp.Or(compareBool(a.Path == revoke, b.Path == revoke), cmp.Compare(a.Path, b.Path))
	})
	return nil
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// revoke is the path by which a lease is revoked.
const revoke = "sys/leases/revoke"

func (p *planner) secret(ctx context.Context, r *Role, c *taskconfig.Config, sec secrets.Secret) error {
	if c.Unknown("secret", sec.Name, "path") {
		p.plan.Incomplete = true
		r.note("Not here: secret %q: its path %q is known only when Nomad starts the task. Write its policy by hand.", sec.Name, c.Written("secret", sec.Name, "path"))
		return nil
	}
	m, guessed, err := p.mountOf(ctx, sec.Request)
	if err != nil {
		return err
	}
	needs, err := vault.Grants(sec.Request, m)
	if err != nil {
		return err
	}
	known := m
	if guessed {
		known = vault.Mount{}
	}
	if hint := vault.Mistyped(sec.Request, known); hint != "" {
		r.note("Look at secret %q: path %q: %s", sec.Name, sec.Request.Path, hint)
	}
	for _, need := range needs {
		if err := plain("the path", need.Path); err != nil {
			return err
		}
		g := Grant{Path: need.Path, Capabilities: need.Capabilities}
		switch {
		case need.Path == revoke:
			g.Note = "To revoke a lease when its successor is in use, and at the task's end. Without it a lease lives until its TTL."
		case guessed && m.Type == "kv":
			g.Note = fmt.Sprintf("Guessed: %s is a KV version 2. If it is not, say so: -mount %s=kv1, or ask a server: VAULT_ADDR, VAULT_TOKEN.", m.Path, strings.TrimSuffix(m.Path, "/"))
		case guessed && m.Type == vault.UnknownType:
			g.Note = fmt.Sprintf("Guessed: at %s is an engine that makes credentials. If it is not, say so: -mount %s=kv2, or ask a server: VAULT_ADDR, VAULT_TOKEN.", m.Path, strings.TrimSuffix(m.Path, "/"))
		case m.V2 && need.Path != sec.Request.Path:
			g.Note = fmt.Sprintf("%s is a KV version 2: the policy names %s as the API does, with data/.", m.Path, sec.Request.Path)
		}
		r.grant(g)
	}
	return nil
}

// mountOf is the engine of a path: as the operator says, as the server does, or guessed.
func (p *planner) mountOf(ctx context.Context, req secrets.Request) (m vault.Mount, guessed bool, err error) {
	for _, named := range p.options.Mounts {
		if strings.HasPrefix(req.Path+"/", named.Path) && len(named.Path) > len(m.Path) {
			m = named
		}
	}
	if m.Path != "" {
		return m, false, nil
	}
	if p.options.Server != nil {
		m, known, err := p.options.Server.MountOf(ctx, p.options.Token, req.Namespace, req.Path)
		if err != nil {
			return vault.Mount{}, false, err
		}
		if known {
			return m, false, nil
		}
	}
	return vault.GuessMount(req), true, nil
}

// roleOf is the role that a task logs in with, made when the first task that has it comes.
func (p *planner) roleOf(t taskconfig.Task, c *taskconfig.Config) (*Role, error) {
	name, note := p.roleName(t, c)
	if err := plain("the role", name); err != nil {
		return nil, err
	}
	if strings.Contains(name, "/") {
		return nil, fmt.Errorf("the role %q has a slash in its name", name)
	}
	namespace := c.Spec.Namespace
	if namespace != "" {
		if err := plain("the namespace", namespace); err != nil {
			return nil, err
		}
	}
	i := slices.IndexFunc(p.plan.Roles, func(r Role) bool { return r.Name == name && r.Namespace == namespace })
	if i < 0 {
		i = len(p.plan.Roles)
		p.plan.Roles = append(p.plan.Roles, Role{Name: name, Namespace: namespace, Grants: []Grant{}, JWT: p.jwt(name)})
	}
	r := &p.plan.Roles[i]
	r.Tasks = append(r.Tasks, *t.Group.Name+"/"+t.Name)
	if note != "" {
		r.note("%s", note)
	}
	r.JWT.of(t, c)
	return r, nil
}

// roleName is the role's name, and what is to be said of it.
func (p *planner) roleName(t taskconfig.Task, c *taskconfig.Config) (name, note string) {
	ours := p.ownName(t)
	switch v := t.Vault; {
	case v != nil && v.Role != "" && !strings.Contains(v.Role, "${"):
		return v.Role, ""
	case v != nil && v.Role != "":
		return ours, p.unknownRole(t, v.Role)
	case v != nil:
		return ours, fmt.Sprintf("Task %q has a vault block that names no role: set role = %q in it, or the agent's default role is used, which other jobs have, too.", t.Name, ours)
	case c.Unknown("role"):
		return ours, p.unknownRole(t, c.Written("role"))
	case c.Ours.Role != "":
		return c.Ours.Role, ""
	}
	return ours, fmt.Sprintf("Task %q names no role: set role = %q in its config block, or the plugin's default role (%s) is used, which other jobs have, too.", t.Name, ours, driver.DefaultJWTRole())
}

// unknownRole is what is to be said of a task whose role is not known here.
func (p *planner) unknownRole(t taskconfig.Task, role string) string {
	p.plan.Incomplete = true
	return fmt.Sprintf("Not here: the name of the role of task %q: %q is known only when Nomad starts the task. Give the policy and the role that name.", t.Name, role)
}

var noName = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// ownName is a name for the role of a task that names none.
func (p *planner) ownName(t taskconfig.Task) string {
	name := p.plan.Job
	if len(p.file.Job.TaskGroups) > 1 || len(t.Group.Tasks) > 1 {
		name += "-" + t.Name
	}
	return noName.ReplaceAllString(name, "-")
}

func (r *Role) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// grant adds a path, or capabilities to one that is there.
func (r *Role) grant(g Grant) {
	for i := range r.Grants {
		if r.Grants[i].Path == g.Path {
			all := append(slices.Clone(r.Grants[i].Capabilities), g.Capabilities...)
			slices.Sort(all)
			r.Grants[i].Capabilities = slices.Compact(all)
			return
		}
	}
	r.Grants = append(r.Grants, g)
}

// plainText is what means nothing to a shell's here-document, to HCL and to the patterns and templates of Vault's policies.
var plainText = regexp.MustCompile(`^[A-Za-z0-9_./@:=,~]([A-Za-z0-9 _./@:=,~-]*[A-Za-z0-9_./@:=,~-])?$`)

func plain(what, text string) error {
	if !plainText.MatchString(text) {
		return fmt.Errorf("%s %q has characters that mean something in a policy or a script: write it by hand", what, text)
	}
	return nil
}
