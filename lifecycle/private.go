package lifecycle

import (
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// privateFiles is the way into a task's private directory, which is hostile (docs/nomad.md, "Tokens").
type privateFiles struct {
	harden func(taskDir string) error
	read   func(taskDir, rel string, owners ...int) (secrets.Value, error)
	find   func(taskDir string, owners ...int) []taskdir.Identity
}
