package check

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// paths warns of paths that are likely mistyped.
func (s *subject) paths() {
	for name, c := range s.config.Ours.Secrets {
		if s.config.Unknown("secret", name, "path") || c.Provider != "" && c.Provider != secrets.DefaultProvider {
			continue
		}
		req := secrets.Request{Path: c.Path}
		if len(c.Params) > 0 || c.CSR != nil || s.config.Unknown("secret", name, "params") {
			req.Params = map[string]string{}
		}
		if hint := vault.Mistyped(req, vault.Mount{}); hint != "" {
			s.warnf(in("secret", name, "path"), "secret %q: path %q: %s", name, c.Path, hint)
		}
	}
}

// perRun are the variables that name a job.
var perRun = regexp.MustCompile(`\$\{\s*(?:NOMAD_JOB_ID|NOMAD_JOB_NAME)\s*\}`)

// ownJobs warns of paths that are others for each run of a job, because each is a job of its own.
func (s *subject) ownJobs() {
	if !s.file.MakesJobs() {
		return
	}
	for name := range s.config.Ours.Secrets {
		steps := []string{"secret", name, "path"}
		if path := s.config.Written(steps...); perRun.MatchString(path) && s.config.Unknown(steps...) {
			s.warnf(in(steps...), "secret %q: path %q: each run of a periodic or parameterized job is a job of its own, with an ID and name that Nomad makes, and with the rights of this one: ${NOMAD_JOB_PARENT_ID} is this job's ID there", name, path)
		}
	}
}

// replacedEnv warns of variables of the task that a secret's take the place of. Which fields there are for env_prefix only the server
// knows; without a prefix it could be any variable.
func (s *subject) replacedEnv() {
	for name, c := range s.config.Ours.Secrets {
		if c.EnvPrefix != nil && *c.EnvPrefix != "" && !s.config.Unknown("secret", name, "env_prefix") {
			for _, variable := range slices.Sorted(maps.Keys(s.Env)) {
				if field, ok := strings.CutPrefix(variable, *c.EnvPrefix); ok && field != "" {
					s.warnf([]string{"env", variable}, "env %s of the task is replaced if secret %q has a field for it (env_prefix is %q)", variable, name, *c.EnvPrefix)
				}
			}
		}
		for _, env := range c.Env {
			for _, variable := range slices.Sorted(maps.Keys(env)) {
				if _, ok := s.Env[variable]; ok {
					s.warnf([]string{"env", variable}, "env %s of the task is replaced by secret %q", variable, name)
				}
			}
		}
	}
}

// constraint warns of a task that may land on a node without the plugin, where its secrets are unknown keys or nothing at all.
func (s *subject) constraint() {
	attribute := "attr.driver." + s.Driver + ".secrets"
	forNomad := attribute + ".nomad" // is there on nodes without an address of a Vault server, too
	if !s.config.ReadsVault() {
		attribute = forNomad
	}
	for _, c := range slices.Concat(s.file.Job.Constraints, s.Group.Constraints, s.Constraints) {
		if c == nil || !strings.Contains(c.LTarget, "attr.driver."+s.Driver+".secrets") {
			continue
		}
		if !s.config.ReadsVault() || !strings.Contains(c.LTarget, forNomad) {
			return
		}
	}
	s.warnf(nil, `no constraint keeps the task to nodes with this plugin: add constraint { attribute = "${%s}", operator = "is_set" }`, attribute)
}

// usedSecrets warns of secrets that the task gets nothing of.
func (s *subject) usedSecrets(spec *secrets.Spec) {
	for _, sec := range spec.Secrets {
		used := len(sec.Env) > 0 || sec.EnvPrefix != nil || len(sec.Files) > 0 || sec.AllFiles || sec.Live != nil || sec.PullOnly ||
			s.config.Unknown("registry_auth", "secret")
		for _, f := range spec.Files {
			used = used || names(f.Template, sec.Name) || s.config.Unknown("file", f.Path, "template")
		}
		for _, key := range []string{"env", "env_prefix", "files", "live_dir"} {
			used = used || s.config.Unknown("secret", sec.Name, key)
		}
		if !used {
			s.warnf(in("secret", sec.Name), "secret %q: nothing uses it: give it env, env_prefix, file, files or live_dir, or name it in the template of a file", sec.Name)
		}
	}
}

// names reports whether a template has something of a secret. Where it hands on all of its data, or looks a secret up by a key that it
// works out, it may have any.
func names(template, secret string) bool {
	uses, whole := usesOf(template)
	return whole || slices.ContainsFunc(uses, func(u use) bool { return u.fields[0] == secret })
}

// restarts warns of what a restart in place does that may not be meant.
func (s *subject) restarts(spec *secrets.Spec) {
	s.vaultBlock()
	restarted := ""
	for _, sec := range spec.Secrets {
		if sec.Change.Mode == secrets.Restart && restarted == "" {
			restarted = sec.Name
		}
	}
	if restarted == "" {
		return
	}
	s.kill(spec)
	s.shortLived(restarted)
	s.checkRestart()
	s.staggers(spec)
}

// vaultBlock warns of what Nomad itself does with the token of a vault block.
func (s *subject) vaultBlock() {
	if v := s.Vault; v != nil && (v.ChangeMode == nil || *v.ChangeMode == "" || *v.ChangeMode == "restart") {
		s.warnf([]string{"vault", "change_mode"}, "when Vault is away for longer than the token lives, Nomad restarts the task (change_mode of the vault block is restart): with an identity block it does not; or set change_mode = \"noop\"")
	}
}

// kill warns where a restart by rotation ends the program in another way than Nomad's own stop.
func (s *subject) kill(spec *secrets.Spec) {
	if t := s.KillTimeout; t != nil && *t != spec.StopTimeout && !s.config.Unknown("stop_timeout") {
		s.warnf([]string{"kill_timeout"}, "kill_timeout is %v, and a restart by rotation gives the program %v: Nomad does not tell a driver; set stop_timeout = %q in the config block", *t, spec.StopTimeout, t.String())
	}
	if k := s.KillSignal; k != "" && k != spec.StopSignal && !s.config.Unknown("stop_signal") {
		s.warnf([]string{"kill_signal"}, "kill_signal is %s, and a restart by rotation does not use it: Nomad does not tell a driver; set stop_signal = %q in the config block", k, k)
	}
}

// shortLived warns of a task that runs to its end and would be started from its beginning.
func (s *subject) shortLived(secret string) {
	kind := ""
	if t := s.file.Job.Type; t != nil && (*t == "batch" || *t == "sysbatch") {
		kind = *t
	}
	if l := s.Lifecycle; l != nil && !l.Sidecar {
		kind = l.Hook
	}
	if kind != "" {
		s.warnf(in("secret", secret), "secret %q: a %s task runs to its end, and a change of the secret would start it from its beginning: set change_mode = \"noop\"", secret, kind)
	}
}

// checkRestart warns of health checks that may take a restart in place for a failure.
func (s *subject) checkRestart() {
	for _, service := range slices.Concat(s.Group.Services, s.Services) {
		if service == nil || service.TaskName != "" && service.TaskName != s.Name {
			continue
		}
		found := restartsOn(service.CheckRestart)
		for _, check := range service.Checks {
			found = found || restartsOn(check.CheckRestart)
		}
		if found {
			s.warnf(nil, "check_restart: its grace does not begin anew after a restart by rotation, which the check may take for a failure: give limit room for it, or use change_mode \"signal\" or \"script\"")
			return
		}
	}
}

func restartsOn(c *api.CheckRestart) bool { return c != nil && c.Limit > 0 }

// staggers warns of allocations that would be restarted at one time.
func (s *subject) staggers(spec *secrets.Spec) {
	if s.Group.Count == nil || *s.Group.Count < 2 || spec.PreStopWait == 0 {
		return
	}
	for _, sec := range spec.Secrets {
		least := sec.Change.Splay + spec.PreStopWait + spec.StopTimeout
		if sec.Change.Mode == secrets.Restart && sec.Change.Stagger <= least {
			s.warnf(in("secret", sec.Name, "stagger"), "secret %q: stagger is %v, and splay, pre_stop_wait and stop_timeout come to %v: allocations of the group are restarted before the one before is up; set stagger to more than that and the time to be healthy",
				sec.Name, sec.Change.Stagger, least.Round(time.Second))
		}
	}
}
