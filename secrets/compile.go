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
// line each, and each line says where, what, and what would mend it. The error is of kind Invalid.
// No request has been made by then, and none is needed to compile: what depends on the answers
// (names made by env_prefix and files) Render checks.
func Compile(c TaskConfig) (*Spec, error) {
	k := &compiler{files: newPathSet()}
	spec := k.task(c)
	if err := k.err(); err != nil {
		return nil, err
	}
	return spec, nil
}

// compiler collects the problems of one task's config.
type compiler struct {
	problems []error
	env      map[string]string // variable → the secret that sets it
	files    *pathSet
}

// badf notes a problem at a place, such as `secret "db"`.
func (k *compiler) badf(place, format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if place != "" {
		msg = place + ": " + msg
	}
	k.problems = append(k.problems, errors.New(msg))
}

func (k *compiler) err() error {
	if len(k.problems) == 0 {
		return nil
	}
	return &Error{Kind: Invalid, Err: errors.Join(k.problems...)}
}

func (k *compiler) task(c TaskConfig) *Spec {
	spec := &Spec{
		Role:         c.Role,
		Namespace:    strings.Trim(c.Namespace, "/"),
		IdentityFile: c.IdentityFile,
		ExposeToken:  c.ExposeToken,
		StopSignal:   c.StopSignal,
		StopTimeout:  k.duration("", "stop_timeout", c.StopTimeout, DefaultStopTimeout),
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
	k.fromPolicies(c.FromPolicies)

	def := k.defaults(c)
	k.env = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Secrets)) {
		spec.Secrets = append(spec.Secrets, k.secret(name, c.Secrets[name], def, spec.Namespace))
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
	switch c.Provider {
	case "", "vault":
	case "nomad":
		k.badf(place, `provider "nomad" is not yet supported; use vault`)
	default:
		k.badf(place, "provider %q is not known; use vault", c.Provider)
	}
	if c.LiveDir != "" || c.LiveListing || c.LiveStale != "" {
		key := "live_dir"
		switch {
		case c.LiveDir != "":
		case c.LiveListing:
			key = "live_listing"
		default:
			key = "live_stale"
		}
		k.badf(place, "%s is not yet supported; use env or file", key)
	}
	s := Secret{
		Name: name,
		Request: Request{
			Namespace: namespace,
			Version:   c.Version,
			Params:    k.params(place, c.Params),
		},
		Env:       k.envMap(place, c.Env),
		EnvPrefix: c.EnvPrefix,
		AllFiles:  c.AllFiles,
		Change:    k.change(place, c, def),
		Granted:   c.Discovered,
		Required:  c.Required == nil || *c.Required,
	}
	path, err := cleanRequestPath(c.Path, namespace, s.Request.Params != nil)
	if err != nil {
		k.badf(place, "%v", err)
	}
	s.Request.Path = path
	if c.Version < 0 {
		k.badf(place, "version %d is below 0; give a version that the secret has, or none for the newest", c.Version)
	}
	if c.Version != 0 && s.Request.Params != nil {
		k.badf(place, "version is for reading a KV v2 secret and params for a write; give one of them")
	}
	if c.EnvPrefix != nil && *c.EnvPrefix != "" {
		if err := checkEnvName(*c.EnvPrefix); err != nil {
			k.badf(place, "env_prefix %q: %v", *c.EnvPrefix, err)
		}
	}
	if c.AllFiles {
		if err := reserved(name); err != nil {
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
}
