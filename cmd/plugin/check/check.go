package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/jobfile"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/taskconfig"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Options say what the operator has set on the nodes, where that is not the default.
type Options struct {
	// JWTFile is where the plugins look for a task's identity.
	JWTFile string
	// NodeToken: the plugins have a token_file, so that a task needs no identity.
	NodeToken bool
}

// Unreadable is the report on a file that is no job.
func Unreadable(file *jobfile.File, problems []jobfile.Problem) *Report {
	r := &Report{File: file.Name, Tasks: []Task{}, Findings: []Finding{}}
	for _, p := range problems {
		r.Findings = append(r.Findings, Finding{Severity: Error, At: p.At, Text: p.Text})
	}
	r.sort()
	return r
}

// Job looks at every task of a job.
func Job(file *jobfile.File, o Options) *Report {
	if o.JWTFile == "" {
		o.JWTFile = driver.DefaultJWTFile()
	}
	r := &Report{File: file.Name, Job: file.ID(), Tasks: []Task{}, Findings: []Finding{}}
	for _, g := range file.Job.TaskGroups {
		for _, t := range g.Tasks {
			s := subject{
				Task: taskconfig.Of(file, g, t),
				file: file, report: r, options: o,
			}
			s.check()
		}
	}
	r.sort()
	return r
}

// subject is a task that is looked at.
type subject struct {
	taskconfig.Task
	config  *taskconfig.Config
	file    *jobfile.File
	report  *Report
	options Options
}

func (s *subject) find(severity Severity, at jobfile.Place, format string, args ...any) {
	at.Group, at.Task = *s.Group.Name, s.Name
	s.report.Findings = append(s.report.Findings, Finding{
		Severity: severity, At: s.file.Find(at), Group: *s.Group.Name, Task: s.Name, Text: fmt.Sprintf(format, args...),
	})
}

// errorf and warnf are about a part of the task: steps lead to it.
func (s *subject) errorf(steps []string, format string, args ...any) {
	s.find(Error, jobfile.Place{Steps: steps}, format, args...)
}

func (s *subject) warnf(steps []string, format string, args ...any) {
	s.find(Warning, jobfile.Place{Steps: steps}, format, args...)
}

// in are the steps to a part of the task's config.
func in(steps ...string) []string { return append([]string{"config"}, steps...) }

func (s *subject) check() {
	if _, ours := driver.ForJob(s.Driver); !ours {
		s.otherDriver()
		return
	}
	var err error
	if s.config, err = taskconfig.Decode(s.Task); err != nil {
		s.errorf(in(), "%v", err)
		return
	}
	for _, p := range s.config.Problems {
		s.find(Error, jobfile.Place{Steps: in(p.Steps...), Nth: p.Nth}, "%s", p.Text)
	}
	s.nomadsOwn()
	if !s.config.Ours.Declared() {
		s.unused()
		return
	}
	identity := s.identity()
	if variables := s.nomadIdentity(); identity != "" && variables != "" {
		identity += "; Nomad Variables: " + variables
	} else {
		identity = cmp.Or(identity, variables)
	}
	s.paths()
	s.ownJobs()
	s.templates()
	s.replacedEnv()
	s.constraint()
	if spec := s.config.Spec; spec != nil {
		s.usedSecrets(spec)
		s.restarts(spec)
	}
	s.report.Tasks = append(s.report.Tasks, s.row(identity))
}

// otherDriver is about a task whose driver knows no secrets. What those that are not Nomad's own take is not known.
func (s *subject) otherDriver() {
	find := s.warnf
	if slices.Contains([]string{"exec", "java", "qemu"}, s.Driver) {
		find = s.errorf
	}
	for _, key := range []string{"secret", "from_policies"} {
		if _, ok := s.Config[key]; ok {
			find(in(key), "driver %q has no secrets: %s is for the drivers %s", s.Driver, key, strings.Join(driver.Names(), ", "))
		}
	}
}

// unused is about keys of ours that are nothing without secrets.
func (s *subject) unused() {
	o := s.config.Ours
	for _, given := range []struct {
		key string
		is  bool
	}{
		{"role", o.Role != ""}, {"identity_file", o.IdentityFile != ""}, {"change_mode", o.ChangeMode != ""}, {"pre_stop_wait", o.PreStopWait != ""},
	} {
		if given.is {
			s.warnf(in(given.key), "%s is of no use: the task has no secret and no from_policies", given.key)
		}
	}
}

// nomadsOwn is about `secret` blocks of Nomad's own, which are easily taken for ours.
func (s *subject) nomadsOwn() {
	for _, own := range s.Secrets {
		if own != nil {
			s.warnf([]string{"secret", own.Name}, "secret %q is Nomad's own: read once at the start, no rotation, no files. Is it to be in the config block?", own.Name)
		}
	}
}

// identity finds whose rights the secrets of Vault's are read with, as the driver does.
func (s *subject) identity() string {
	ours := s.config.Ours
	switch {
	case !s.config.ReadsVault():
		return ""
	case s.Vault != nil:
		return "vault block"
	case s.HasEnv("VAULT_TOKEN"):
		return "VAULT_TOKEN of the job's env"
	case s.config.Unknown("identity_file"):
		return "identity, at a path that is not known here"
	}
	want := taskconfig.Below(cmp.Or(ours.IdentityFile, s.options.JWTFile))
	var elsewhere []string
	fits := false // one of them is for Vault, by its name or audience
	for _, id := range append(slices.Clone(s.Identities), s.Identity) {
		if id == nil {
			continue
		}
		at := taskconfig.WrittenTo(id)
		if at == want {
			role := ours.Role
			if role == "" {
				role = "the plugin's, since the job names none"
			}
			return fmt.Sprintf("identity %q, role %s", id.Name, role)
		}
		fits = fits || secrets.IdentityForVault(id.Name, id.Audience)
		elsewhere = append(elsewhere, fmt.Sprintf("%q is written to %s", id.Name, cmp.Or(at, "nowhere: file is not true")))
	}
	switch {
	case s.options.NodeToken:
		s.nodeToken()
		return "the node's token"
	case fits:
		s.errorf([]string{"identity"}, "%s: set file = true and filepath = %q", lookedFor(want, elsewhere), want)
	case len(elsewhere) > 0:
		s.errorf([]string{"identity"}, "%s: if one of them is for Vault, set file = true and filepath = %q in it; if not, %s", lookedFor(want, elsewhere), want, addIdentity(want))
	default:
		s.errorf(nil, "the task has no identity to read secrets with: %s", addIdentity(want))
	}
	return ""
}

// lookedFor says that no identity is where the driver looks, and where they are.
func lookedFor(want string, elsewhere []string) string {
	return fmt.Sprintf("the driver looks for the task's identity at %s, and no identity block has that filepath (identity %s)", want, strings.Join(elsewhere, ", "))
}

// addIdentity is what a task without an identity for Vault is to have.
func addIdentity(want string) string {
	return fmt.Sprintf(`add identity { name = "vault", aud = ["vault.io"], ttl = "1h", file = true, filepath = %q }, or a vault block`, want)
}

// nodeToken is about what the node's token is not for.
func (s *subject) nodeToken() {
	const add = "only the node's token is there: give the task an identity block or a vault block"
	ours := s.config.Ours
	for _, name := range slices.Sorted(maps.Keys(ours.Secrets)) {
		c := ours.Secrets[name]
		if c.Provider != "" && c.Provider != secrets.DefaultProvider || s.config.Unknown("secret", name, "provider") {
			continue
		}
		switch {
		case len(c.Params) > 0:
			s.errorf(in("secret", name, "params"), "secret %q: params need an identity of the task's own, and %s", name, add)
		case c.CSR != nil:
			s.errorf(in("secret", name, "csr"), "secret %q: csr needs an identity of the task's own, and %s", name, add)
		}
	}
	if ours.FromPolicies != "" && ours.FromPolicies != "off" {
		s.errorf(in("from_policies"), "from_policies needs an identity of the task's own, and %s", add)
	}
	if namespace, _ := s.config.Namespace(); strings.Trim(namespace, "/") != "" {
		steps := in("namespace")
		switch {
		case ours.Namespace != "" || s.config.Written("namespace") != "":
		case s.HasEnv("VAULT_NAMESPACE"):
			steps = []string{"env", "VAULT_NAMESPACE"}
		}
		s.warnf(steps, "the node's token is the operator's: a start refuses namespace %q, unless the plugins are set to that", namespace)
	}
}

// row is the task in the report.
func (s *subject) row(identity string) Task {
	ours := s.config.Ours
	t := Task{Group: *s.Group.Name, Name: s.Name, Driver: s.Driver, Identity: identity, FromPolicies: ours.FromPolicies, Secrets: []Secret{}, tells: *s}
	for _, name := range slices.Sorted(maps.Keys(ours.Secrets)) {
		t.Secrets = append(t.Secrets, s.secretRow(name, ours.Secrets[name]))
	}
	t.Files = slices.Sorted(maps.Keys(ours.Files))
	return t
}

// unknownText is what stands for a value that only Nomad has.
const unknownText = "(not known here)"

func (s *subject) secretRow(name string, c *secrets.SecretConfig) Secret {
	r := Secret{
		Name: name, Provider: c.Provider, Path: s.text(c.Path, "secret", name, "path"), Change: s.change(name, c),
		LiveDir: s.text(c.LiveDir, "secret", name, "live_dir"), Required: c.Required == nil || *c.Required,
	}
	if r.Provider == "" {
		r.Provider = secrets.DefaultProvider
	}
	for _, env := range c.Env {
		r.Env = append(r.Env, slices.Collect(maps.Keys(env))...)
	}
	slices.Sort(r.Env)
	if len(c.Env) == 0 && s.config.Unknown("secret", name, "env") {
		r.Env = append(r.Env, unknownText)
	}
	if c.EnvPrefix != nil {
		r.Env = append(r.Env, *c.EnvPrefix+"*")
	}
	r.Files = slices.Sorted(maps.Keys(c.Files))
	if c.AllFiles {
		r.Files = append(r.Files, name+"/*")
	}
	return r
}

// text is a value for the report: as written where Nomad has yet to fill it in.
func (s *subject) text(value string, steps ...string) string {
	if !s.config.Unknown(steps...) {
		return value
	}
	if written := s.config.Written(steps...); written != "" {
		return written
	}
	return unknownText
}

func (s *subject) change(name string, c *secrets.SecretConfig) string {
	if s.config.Unknown("secret", name, "change_mode") || c.ChangeMode == "" && s.config.Unknown("change_mode") {
		return unknownText
	}
	if spec := s.config.Spec; spec != nil {
		for _, sec := range spec.Secrets {
			if sec.Name == name {
				if sec.Change.Mode == secrets.SendSignal {
					return "signal " + sec.Change.Signal
				}
				return sec.Change.Mode.String()
			}
		}
	}
	if c.ChangeMode != "" {
		return c.ChangeMode
	}
	return secrets.Restart.String()
}
