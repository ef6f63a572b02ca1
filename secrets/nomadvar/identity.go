package nomadvar

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

const (
	// TokenFile is where Nomad writes a task's default identity if its block has `file` and no `filepath`, below the task
	// directory.
	TokenFile = "secrets/nomad_token"
	// TokenEnv is the variable of a task's default identity.
	TokenEnv = "NOMAD_TOKEN"
	// DefaultFile is where the plugin looks first, and where no container sees the file.
	DefaultFile = "private/nomad.jwt"
)

// Identity is what a task asks Nomad with.
type Identity struct {
	Token secrets.Value
	// Source is the file that it was found in, below the task directory, or TokenEnv.
	Source string
}

// Identify finds a task's identity: in the file that the operator names, in Nomad's own, or in its environment. What is in a
// file that something else than Nomad wrote is an error, and not passed over.
func Identify(file string, task secrets.Task) (Identity, error) {
	for _, rel := range []string{file, TokenFile} {
		token, err := taskdir.ReadPrivate(task.Dir, rel, task.UID)
		switch kind := secrets.KindOf(err); {
		case err == nil:
			return Identity{Token: token, Source: rel}, nil
		case kind != secrets.NotFound:
			return Identity{}, secrets.Errorf(kind, "the task's identity for Nomad: %w", err)
		}
	}
	if !task.Token.IsEmpty() {
		return Identity{Token: task.Token, Source: TokenEnv}, nil
	}
	at := strings.TrimPrefix(file, "./")
	missing := fmt.Sprintf("task %q has no identity to read Nomad Variables with", task.Name)
	for _, id := range taskdir.Identities(task.Dir, task.UID) {
		if slices.Contains(id.Audience, secrets.NomadAudience) {
			return Identity{}, secrets.Errorf(secrets.Invalid, "%s at %s: there is one at %q: give its identity block filepath = %q", missing, at, secrets.Cut(id.File, 80), at)
		}
	}
	return Identity{}, secrets.Errorf(secrets.Invalid, "%s: add to the task  identity { file = true  filepath = %q }", missing, at)
}
