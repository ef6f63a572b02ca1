package secrets

import (
	"maps"
	"slices"
)

// Fields of a registry_auth block's secret where the job names none.
const (
	defaultUsernameField = "username"
	defaultPasswordField = "password"
)

// registry checks a registry_auth block. What it says of the image and of the driver is the driver's to check.
func (k *compiler) registry(spec *Spec, c TaskConfig) {
	b := c.RegistryAuth
	if b == nil {
		return
	}
	const place = "registry_auth"
	var declared []string
	for _, name := range slices.Sorted(maps.Keys(c.Secrets)) {
		if !c.Secrets[name].Discovered {
			declared = append(declared, name)
		}
	}
	switch {
	case b.Secret == "":
		k.badf(place, "secret is missing; name the task's secret that has the registry's credentials")
	case len(declared) == 0:
		k.badf(place, "secret %q is not one of the task's, which declares none; add a secret block of this name", Cut(b.Secret, maxWord))
	case !slices.Contains(declared, b.Secret):
		k.badf(place, "secret %q is not one that the task declares; add a secret block of this name, or use %s", Cut(b.Secret, maxWord), listOf(declared, len(declared), " or "))
	}
	r := &RegistryAuth{
		Secret: b.Secret, Username: defaultUsernameField, Password: defaultPasswordField, ServerAddress: b.ServerAddress,
	}
	if b.Username != "" {
		r.Username = b.Username
	}
	if b.Password != "" {
		r.Password = b.Password
	}
	k.fieldPath(place+": username", r.Username)
	k.fieldPath(place+": password", r.Password)
	k.plainText(place, "server_address", b.ServerAddress)
	spec.RegistryAuth = r
}

// onlyPulled finds the secret that nothing but the pull of the task's image makes use of. Nothing is done for a change
// of it, and the task has it no longer than the pull takes.
func (k *compiler) onlyPulled(spec *Spec) {
	if spec.RegistryAuth == nil {
		return
	}
	for i := range spec.Secrets {
		s := &spec.Secrets[i]
		if s.Name == spec.RegistryAuth.Secret && s.Live == nil && !s.rendered() && !spec.namedInFiles(s.Name) {
			s.PullOnly = true
			s.Change.Mode = Noop
		}
	}
}
