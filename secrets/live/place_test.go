package live

import (
	"slices"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/mountinfo"
)

// Who ends file servers over and over does not fill the node's table of mounts.
func TestLayersAreBounded(t *testing.T) {
	others := slices.Repeat([]mountinfo.Mount{{Type: "tmpfs"}}, maxMounts)
	layers := slices.Repeat([]mountinfo.Mount{{Type: fsType}}, maxMounts)
	must.NoError(t, roomFor(append(others, layers[1:]...)))
	must.ErrorContains(t, roomFor(layers), "20000 mounts of live directories: too many file servers have died")
}
