package secrets

import (
	"maps"
	"slices"
	"testing"

	"github.com/shoenig/test/must"
)

// What a start tells of a secret is what the task gets of it.
func TestGivenIsRendered(t *testing.T) {
	const answer = `{"user-Name":"u","a":{"b":1},"none":null}`
	for name, change := range map[string]func(*SecretConfig){
		"env":            func(s *SecretConfig) { s.Env = []map[string]string{{"B": "a.b", "P_A": "a"}} },
		"env_prefix":     func(s *SecretConfig) { s.EnvPrefix = ptr("P_") },
		"both":           func(s *SecretConfig) { s.Env, s.EnvPrefix = []map[string]string{{"P_A": "a"}}, ptr("P_") },
		"file":           func(s *SecretConfig) { s.Files = map[string]*FileConfig{"x/y": {Field: "a"}, "t": {Template: "t"}} },
		"files":          func(s *SecretConfig) { s.AllFiles = true },
		"granted":        func(s *SecretConfig) { s.Discovered, s.AllFiles, s.EnvPrefix = true, true, ptr("P_") },
		"granted, unset": func(s *SecretConfig) { s.Discovered, s.EnvPrefix = true, ptr("LD_") },
	} {
		t.Run(name, func(t *testing.T) {
			spec, err := Compile(one(change))
			must.NoError(t, err)
			fields := fieldsOf(t, answer)
			set, err := renderSet(spec, map[string]Answer{"db": {Fields: fields}})
			must.NoError(t, err)
			var paths []string
			for _, f := range set.Files {
				paths = append(paths, f.Path)
			}
			must.SliceContainsAll(t, slices.Collect(maps.Keys(set.Env)), spec.Secrets[0].Variables(fields))
			must.SliceContainsAll(t, paths, spec.Secrets[0].Places(fields))
		})
	}
}
