package docs

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

const module = "github.com/nomad-driver-secrets/nomad-driver-secrets/"

// layers are the repository's, from the top: a package imports those of its own layer and below it.
var layers = []string{"e2e", "cmd", "driver", "lifecycle", "secrets"}

// only says who may import what, beside the layers: by the beginning of both paths.
var only = map[string][]string{
	// A provider is known by name, and by what it can do. The volume driver is not of a task, and knows one provider only.
	module + "secrets/vault":    {"driver", "cmd", "secrets/live/volumes"},
	module + "secrets/nomadvar": {"driver", "cmd"},

	"github.com/hashicorp/vault/api":      {"secrets/vault", "e2e"},
	"github.com/hashicorp/nomad/api":      {"secrets/nomadvar", "cmd", "e2e"},
	"github.com/hashicorp/nomad/drivers":  {"driver"},
	"github.com/prometheus/client_golang": {"driver/metrics"},
	"github.com/docker/docker":            {"driver", "e2e"},
}

// Imports go one way, and nobody but the driver knows a provider, Nomad's drivers or Docker.
func TestImportsGoOneWay(t *testing.T) {
	list := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./...")
	list.Dir = ".."
	out, err := list.Output()
	must.NoError(t, err)
	seen := 0
	for line := range strings.Lines(string(out)) {
		all := strings.Fields(line)
		importer := strings.TrimPrefix(all[0], module)
		for _, imported := range all[1:] {
			if rel, ours := strings.CutPrefix(imported, module); ours {
				seen++
				must.LessEq(t, layerOf(rel), layerOf(importer), must.Sprintf("%s imports %s", importer, rel))
			}
			for what, allowed := range only {
				if within(imported, what) {
					must.True(t, slices.ContainsFunc(allowed, func(who string) bool { return within(importer, who) }), must.Sprintf("%s imports %s", importer, imported))
				}
			}
		}
	}
	must.Positive(t, seen)
}

func layerOf(pkg string) int {
	return slices.IndexFunc(layers, func(l string) bool { return within(pkg, l) })
}

// within reports whether a package is another, or below it.
func within(pkg, of string) bool { return pkg == of || strings.HasPrefix(pkg, of+"/") }
