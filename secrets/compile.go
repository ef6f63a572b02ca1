package secrets

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Compile checks what a job asks for and makes it a Spec. It reports all that is wrong at once, one
// line each, and each line says where, what, and the remedy. The error is of kind Invalid.
// No request has been made by then, and none is needed to compile: what depends on the answers
// (names made by env_prefix and files) Fit checks.
//
// A config that asks for too much is refused before it is looked into (S8).
//
// The providers are those that a secret may name beside the default one.
func Compile(c TaskConfig, providers ...string) (*Spec, error) {
	if err := c.checkLimits(); err != nil {
		return nil, err
	}
	k := &compiler{providers: providers, files: newPathSet(), templates: newTemplates()}
	spec := k.task(c)
	if err := k.err(); err != nil {
		return nil, err
	}
	return spec, nil
}

// compiler collects the problems of one task's config.
type compiler struct {
	problems  problems
	providers []string          // beside the default one
	env       map[string]string // variable → the secret that sets it
	liveDirs  map[string]string // in the container → the secret that it is of
	files     *pathSet
	templates *templates
}

// badf notes a problem at a place, such as `secret "db"`.
func (k *compiler) badf(place, format string, args ...any) {
	k.problems.add(newProblem(place, fmt.Sprintf(format, args...)))
}

func (k *compiler) err() error {
	if err := k.problems.join(); err != nil {
		return &Error{Kind: Invalid, Err: err}
	}
	return nil
}

func (k *compiler) task(c TaskConfig) *Spec {
	spec := &Spec{
		Role:         c.Role,
		Namespace:    strings.Trim(c.Namespace, "/"),
		IdentityFile: c.IdentityFile,
		ExposeToken:  c.ExposeToken,
		StopSignal:   c.StopSignal,
		StopTimeout:  k.duration("", "stop_timeout", c.StopTimeout, DefaultStopTimeout),

		PreStopSignal: c.PreStopSignal,
		PreStopWait:   k.duration("", "pre_stop_wait", c.PreStopWait, 0),
	}
	k.plainText("", "role", c.Role)
	k.plainText("", "namespace", c.Namespace)
	if slices.Contains(strings.Split(c.Namespace, "/"), "..") {
		k.badf("", `namespace %q: ".." is not allowed; write the namespace in full`, c.Namespace)
	}
	if c.IdentityFile != "" {
		if err := checkPath(c.IdentityFile); err != nil {
			k.badf("", `identity_file %q: %v; give the path below the task directory, such as "private/vault.jwt"`, c.IdentityFile, err)
		}
	}
	if c.StopSignal != "" {
		k.signal("", "stop_signal", c.StopSignal)
	}
	if c.PreStopSignal != "" {
		k.signal("", "pre_stop_signal", c.PreStopSignal)
	}
	if spec.PreStopWait > MaxPreStopWait {
		k.badf("", "pre_stop_wait %q is above 5m; use 5m or less", c.PreStopWait)
	}
	k.fromPolicies(c.FromPolicies)

	def := k.defaults(c)
	k.env, k.liveDirs = map[string]string{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Secrets)) {
		if s := c.Secrets[name]; !s.Discovered {
			spec.Secrets = append(spec.Secrets, k.secret(name, s, def, spec.Namespace))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(c.Files)) {
		place := fmt.Sprintf("file %q", path)
		f := c.Files[path]
		if f.Field != "" {
			k.badf(place, "field is for a file inside a secret block; here give a template, in which secrets go by name")
			f.Field = ""
			if f.Template == "" {
				continue
			}
		}
		spec.Files = append(spec.Files, k.file(place, path, f))
	}
	k.onlyVaults(c)
	k.onlyLive(spec, c)
	k.registry(spec, c)
	k.onlyPulled(spec)
	k.granted(spec, c, def)
	return spec
}

func (k *compiler) fromPolicies(word string) {
	switch word {
	case "", "off", "env", "files", "all":
	default:
		k.badf("", "from_policies %q is not known; use off, env, files or all", word)
	}
}

// secretName is a name that can be a directory and, without dashes, a template's identifier. One
// with dashes is had in a template by `index . "my-db"`.
var secretName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,127}$`)

func (k *compiler) secret(name string, c *SecretConfig, def Change, namespace string) Secret {
	place := fmt.Sprintf("secret %q", name)
	if !secretName.MatchString(name) {
		k.badf(place, "the name is not valid; use a letter or _ first, then letters, digits, _ or -, 128 at the most")
	}
	provider := k.provider(place, c)
	if provider != DefaultProvider {
		namespace = "" // the job's option is Vault's
	}
	s := Secret{
		Name: name,
		Request: Request{
			Provider:  provider,
			Namespace: namespace,
			Version:   c.Version,
			Params:    k.params(place, c.Params),
		},
		Env:       k.envMap(place, c.Env),
		EnvPrefix: c.EnvPrefix,
		AllFiles:  c.AllFiles,
		Live:      k.live(place, c),
		Change:    k.change(place, c, def),
		Granted:   c.Discovered,
		Exact:     c.Exact,
		Required:  c.Required == nil || *c.Required,
	}
	s.CSR, s.Request.Params = k.csr(place, c, s.Request.Params)
	path, err := cleanPathOf(provider, c.Path, namespace, s.Request.Params != nil)
	if err != nil {
		k.badf(place, "%v", err)
	}
	s.Request.Path = path
	if c.Version < 0 {
		k.badf(place, "version %d is below 0; give a version that the secret has, or none for the newest", c.Version)
	}
	if c.Version != 0 && s.Request.Params != nil && s.CSR == nil {
		k.badf(place, "version is for reading a KV v2 secret and params for a write; give one of them")
	}
	if c.EnvPrefix != nil && *c.EnvPrefix != "" {
		if err := checkEnvName(*c.EnvPrefix); err != nil {
			k.badf(place, "env_prefix %q: %v", *c.EnvPrefix, err)
		}
	}
	if c.AllFiles {
		if err := Reserved(name); err != nil {
			k.badf(place, "files: %v; give the secret another name", err)
		} else if err := k.files.addDir(name, place); err != nil {
			k.badf(place, "files: %v", err)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(c.Files)) {
		s.Files = append(s.Files, k.file(fmt.Sprintf("%s: file %q", place, p), p, c.Files[p]))
	}
	return s
}

// provider is the name of the one that a secret is from. What only Vault takes is refused for the others: it would
// be passed over in silence.
func (k *compiler) provider(place string, c *SecretConfig) string {
	name := c.provider()
	if name == DefaultProvider {
		return name
	}
	if !slices.Contains(k.providers, name) {
		all := slices.Sorted(slices.Values(append([]string{DefaultProvider}, k.providers...)))
		k.badf(place, "provider %q is not known; use %s", name, strings.Join(slices.Compact(all), " or "))
		return DefaultProvider // whose rules the rest is checked by
	}
	if c.Version != 0 {
		k.badf(place, "version is for provider %q only; take it out", DefaultProvider)
	}
	if len(c.Params) > 0 {
		k.badf(place, "params are for provider %q only; take them out", DefaultProvider)
	}
	return name
}

// onlyVaults refuses what is about Vault's tokens in a task that has nothing of Vault's: it would be passed over in silence.
func (k *compiler) onlyVaults(c TaskConfig) {
	if c.FromPolicies != "" && c.FromPolicies != "off" || len(c.Secrets) == 0 {
		return
	}
	for _, s := range c.Secrets {
		if s.provider() == DefaultProvider {
			return
		}
	}
	for _, option := range []struct{ key, value, hint string }{
		{"role", c.Role, ""},
		{"namespace", c.Namespace, "; Nomad Variables are read in the job's own namespace"},
		{"identity_file", c.IdentityFile, `; Nomad's identity is expected in "private/nomad.jwt"`},
	} {
		if option.value != "" {
			k.badf("", "%s %q is for provider %q, and no secret of the task is of that; take it out%s", option.key, option.value, DefaultProvider, option.hint)
		}
	}
}

// params and env come as lists of maps: HCL gives a map, and each of several blocks, as one element.
func merge(list []map[string]string) (m map[string]string, twice []string) {
	m = map[string]string{}
	for _, part := range list {
		for key, v := range part {
			if _, ok := m[key]; ok {
				twice = append(twice, key)
			}
			m[key] = v
		}
	}
	slices.Sort(twice)
	return m, slices.Compact(twice)
}

// params are nil when the job gives none: then the request is a read. What a mount takes of them is
// the provider's to say.
func (k *compiler) params(place string, list []map[string]string) map[string]string {
	if len(list) == 0 {
		return nil
	}
	m, twice := merge(list)
	for _, key := range twice {
		k.badf(place, "params: %q is given twice; take one out", key)
	}
	if _, ok := m[""]; ok {
		k.badf(place, "params: a name is empty; give each parameter its name")
	}
	return m
}

func (k *compiler) envMap(place string, list []map[string]string) map[string]string {
	if len(list) == 0 {
		return nil
	}
	m, twice := merge(list)
	for _, name := range twice {
		k.badf(place, "env: %q is given twice; take one out", name)
	}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if err := checkEnvName(name); err != nil {
			k.badf(place, "env: %q: %v", name, err)
		}
		if m[name] == "" {
			k.badf(place, "env: %q has no field; give the name of the secret's field", name)
		}
		k.fieldPath(fmt.Sprintf("%s: env %s", place, name), m[name])
		if other, ok := k.env[name]; ok {
			k.badf(place, "env: %q is set by %s too; give one of them another name", name, other)
			continue
		}
		k.env[name] = place
	}
	return m
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// checkEnvName upholds S4.
func checkEnvName(name string) error {
	if !envName.MatchString(name) {
		return errors.New("not a valid variable name; use a letter or _ first, then letters, digits or _")
	}
	if strings.HasPrefix(name, "NOMAD_") {
		return errors.New("names that begin with NOMAD_ are Nomad's; use another")
	}
	return nil
}

// plainText refuses what can only be a mistake, or an attempt, in a name that goes into requests.
func (k *compiler) plainText(place, key, s string) {
	if strings.ContainsFunc(s, unicode.IsControl) || strings.TrimSpace(s) != s {
		k.badf(place, "%s %q has control characters, or white space around it; take them out", key, s)
	}
	if len(s) > maxWord {
		k.badf(place, "%s is longer than %d bytes; give a shorter one", key, maxWord)
	}
}

// fieldPath bounds a field's name, and with it the look for it in nested JSON.
func (k *compiler) fieldPath(place, field string) {
	if len(field) > maxPath {
		k.badf(place, "the field's name is longer than %d bytes; give a shorter one", maxPath)
	}
}
