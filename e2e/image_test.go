package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A rotation never changes the image, not even where the job says to pull at every start, the name has
// come to mean another image, and the registry is away (C10).
func TestRotationKeepsTheImage(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.putColour("kept-image", "green")
	l.mayRead("kept-image", "secret/data/kept-image")
	registry, err := l.NewRegistry(l.ctx, "registry-kept-image")
	require.NoError(t, err)
	first, err := l.Images.Variant(l.ctx, "kept", `ENV RELEASE=1`, `ENTRYPOINT ["/bin/sh", "-c", "echo release=$RELEASE colour=$COLOUR; exec sleep 1000"]`)
	require.NoError(t, err)
	second, err := l.Images.Variant(l.ctx, "kept", `ENV RELEASE=2`, `ENTRYPOINT ["/bin/sh", "-c", "echo other image; exec sleep 1000"]`)
	require.NoError(t, err)
	ref, err := registry.Push(l.ctx, first, "kept:1")
	require.NoError(t, err)

	alloc := l.run(fmt.Sprintf(`
job "kept-image" {
  group "g" {
    task "web" {
      driver = "docker"
      %s
      config {
        image      = %q
        force_pull = true
        role       = "kept-image"
        auth {
          username = %q
          password = %q
        }
        secret "app" {
          path  = "secret/kept-image"
          env   = { COLOUR = "colour" }
          splay = "0s"
        }
      }
    }
  }
}`, identityBlock, ref, registry.User, registry.Password))
	l.lines(alloc, "web", "release=1 colour=green", 1)
	before, err := alloc.Container(l.ctx, "web")
	require.NoError(t, err)

	require.NoError(t, l.Images.Move(l.ctx, ref, second))
	moved, err := l.Images.ID(l.ctx, ref)
	require.NoError(t, err)
	require.NotEqual(t, before.Image, moved)
	registry.Stop()
	for _, colour := range []string{"blue", "red"} {
		l.putColour("kept-image", colour)
		l.lines(alloc, "web", "release=1 colour="+colour, 1)
	}

	after, err := alloc.Container(l.ctx, "web")
	require.NoError(t, err)
	require.NotEqual(t, before.ID, after.ID, "the rotation made no new container")
	require.Equal(t, before.Image, after.Image)
	l.notRestarted(alloc, "web")
	others, err := alloc.Lines("web", "other image")
	require.NoError(t, err)
	require.Empty(t, others)
}
