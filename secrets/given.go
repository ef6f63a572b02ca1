package secrets

import (
	"maps"
	"slices"
	"strings"
)

// Variables are the names of the variables that a secret with these fields sets, sorted.
func (s *Secret) Variables(f Fields) []string {
	names := slices.Collect(maps.Keys(s.Env))
	if s.EnvPrefix != nil {
		for field, value := range f.content() {
			variable := s.variable(field)
			if value != nil && !(s.Granted && isLoaderEnv(variable)) {
				names = append(names, variable)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Places are the paths of the files that a secret with these fields makes, sorted, and of its live directory.
func (s *Secret) Places(f Fields) []string {
	var paths []string
	for _, file := range s.Files {
		paths = append(paths, file.Path)
	}
	if s.AllFiles {
		for field, value := range f.content() {
			if value != nil {
				paths = append(paths, s.Name+"/"+field)
			}
		}
	}
	slices.Sort(paths)
	if s.Live != nil {
		paths = append(paths, strings.TrimSuffix(s.Live.Path, "/")+"/")
	}
	return slices.Compact(paths)
}
