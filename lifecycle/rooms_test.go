package lifecycle

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Imports go one way (docs/architecture.md): from the session to the rooms below it, and never back.
func TestRoomsImportOneWay(t *testing.T) {
	const module = "github.com/nomad-driver-secrets/nomad-driver-secrets/"
	below := map[string][]string{
		"bubble":     nil,
		"contain":    nil,
		"crashpoint": nil,
		"rootonly":   nil,
		"steps":      nil,
		"queue":      nil,
		"limit":      {"lifecycle/queue"},
		"journal":    {"lifecycle/crashpoint", "lifecycle/rootonly", "secrets"},
		"revoke":     {"lifecycle/contain", "lifecycle/crashpoint", "lifecycle/journal", "lifecycle/limit", "secrets"},
		"poll":       {"lifecycle/contain", "lifecycle/limit", "lifecycle/queue", "secrets"},
	}
	for room, allowed := range below {
		files, err := filepath.Glob(filepath.Join(room, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files, room)
		for _, path := range files {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			file, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ImportsOnly)
			require.NoError(t, err)
			for _, i := range file.Imports {
				name, err := strconv.Unquote(i.Path.Value)
				require.NoError(t, err)
				if strings.HasSuffix(path, "_test.go") && name == module+"lifecycle/bubble" {
					continue // what tests have in common
				}
				if ours, ok := strings.CutPrefix(name, module); ok {
					require.True(t, slices.Contains(allowed, ours), "%s imports %s", path, ours)
				}
			}
		}
	}
}
