package check

import (
	"slices"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/taskconfig"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/nomadvar"
)

// nomadIdentity finds what the task's Nomad Variables are read with, as the driver does; empty: there are none, or it has none.
func (s *subject) nomadIdentity() string {
	variables := false
	for _, secret := range s.config.Ours.Secrets { // one of a provider that is not known here is none
		variables = variables || secret.Provider == secrets.NomadProvider
	}
	if !variables {
		return ""
	}
	written, elsewhere := map[string]bool{}, ""
	for _, id := range append(slices.Clone(s.Identities), s.Identity) {
		if id == nil {
			continue
		}
		if at := taskconfig.WrittenTo(id); at != "" {
			written[at] = true
			if isDefault(id) {
				elsewhere = at
			}
		}
		if id.Env && isDefault(id) {
			written[nomadvar.TokenEnv] = true
		}
	}
	if s.HasEnv(nomadvar.TokenEnv) {
		written[nomadvar.TokenEnv] = true
	}
	for _, at := range []string{nomadvar.DefaultFile, nomadvar.TokenFile, nomadvar.TokenEnv} {
		if written[at] {
			return "Nomad's, in " + at
		}
	}
	const add = `identity { file = true, filepath = "` + nomadvar.DefaultFile + `" }`
	switch {
	case elsewhere != "":
		s.warnf([]string{"identity"}, "the task's default identity is written to %s, and Nomad Variables are read with one at %s, unless the plugins' nomad { file } says where: set filepath = %q", elsewhere, nomadvar.DefaultFile, nomadvar.DefaultFile)
	case len(written) > 0: // one may be where the operator says
		s.warnf([]string{"identity"}, "no identity block of the task's has one to read Nomad Variables with, unless the plugins' nomad { file } says where: add %s", add)
	default:
		s.errorf(nil, "the task has no identity to read Nomad Variables with: add %s", add)
	}
	return ""
}

// isDefault reports whether an identity is the one that Nomad accepts as the task's own.
func isDefault(id *api.WorkloadIdentity) bool { return id.Name == "" || id.Name == "default" }
