package secrets

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// granted compiles what Expand has added, once all that the job declares is compiled. Nobody wrote it into
// the job: what is wrong with one of them is no problem of the job's, and the secret is left out.
func (k *compiler) granted(spec *Spec, c TaskConfig, def Change) {
	if def.Mode == SendSignal || def.Mode == RunScript {
		def.Mode = Restart // which signal, or which script, only a declared secret can say
	}
	for _, name := range slices.Sorted(maps.Keys(c.Secrets)) {
		s := c.Secrets[name]
		if !s.Discovered {
			continue
		}
		alone := &compiler{providers: k.providers, env: map[string]string{}, files: newPathSet()}
		sec := alone.secret(name, s, def, spec.Namespace)
		err := alone.err()
		if err == nil && s.AllFiles {
			err = k.files.addDir(name, placeOf(sec))
		}
		if err != nil {
			why := strings.TrimPrefix(firstLine(err), fmt.Sprintf("secret %q: ", name))
			spec.Skipped = append(spec.Skipped, Skipped{s.Path, why})
			continue
		}
		spec.Secrets = append(spec.Secrets, sec)
	}
	slices.SortFunc(spec.Secrets, func(a, b Secret) int { return strings.Compare(a.Name, b.Name) })
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
