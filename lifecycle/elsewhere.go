package lifecycle

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// maxElsewhere bounds what an error names of a directory that the task can write to.
const maxElsewhere = 3

// identityElsewhere says which identities a task has that is to have one at jwt and has not, and what to write; empty: it has none.
func (k *Keeper) identityElsewhere(st Start, jwt string) string {
	if jwt == "" {
		return ""
	}
	var fit, others []string
	add := func(name, where string, audience []string) {
		switch described := describeIdentity(where, audience); {
		case slices.Contains(audience, secrets.NomadAudience):
		case secrets.IdentityForVault(name, audience):
			fit = append(fit, described)
		default:
			others = append(others, described)
		}
	}
	for _, id := range k.files.find(st.Task.Dir, st.Task.UID) {
		add(id.File, strconv.Quote(secrets.Cut(id.File, 80)), id.Audience)
	}
	for _, name := range slices.Sorted(maps.Keys(st.Env)) {
		if identity, ok := strings.CutPrefix(name, "NOMAD_TOKEN_"); ok {
			if audience, is := secrets.JWTAudience(secrets.TextValue(st.Env[name])); is {
				add(identity, "the variable "+secrets.Cut(name, 80), audience)
			}
		}
	}
	looked := fmt.Sprintf("the task's identity is looked for at %s, and there is none; there is ", jwt)
	set := fmt.Sprintf("file = true and filepath = %q", jwt)
	switch {
	case len(fit) > 0:
		return looked + strings.Join(fit[:min(maxElsewhere, len(fit))], ", ") + ": give that identity block " + set
	case len(others) > 0:
		return looked + strings.Join(others[:min(maxElsewhere, len(others))], ", ") + ": if that identity is for Vault, give its block " + set + "; if not, " + howToIdentify
	}
	return ""
}

// describeIdentity says where an identity is, and whom it is for.
func describeIdentity(where string, audience []string) string {
	if len(audience) == 0 {
		return where
	}
	return fmt.Sprintf("%s (aud %s)", where, secrets.Cut(secrets.OneLine(strings.Join(audience, ", ")), 80))
}
