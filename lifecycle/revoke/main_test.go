package revoke

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fieldsOf is a secret with one field.
func fieldsOf(value string) secrets.Fields {
	return secrets.NewFields(map[string]any{"value": value})
}

func newStateDir(t testing.TB) string { return filepath.Join(t.TempDir(), "state", "docker") }
