package e2e

import (
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// A rotation never changes the image, not even where the job says to pull at every start, the name has
// come to mean another image, and the registry is away (C10).
func TestRotationKeepsTheImage(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.PutColour("kept-image", "green")
	l.AllowLeased("kept-image", "secret/data/kept-image")
	registry, err := l.NewRegistry(l.Ctx, "registry-kept-image")
	require.NoError(t, err)
	first, err := l.Images.Variant(l.Ctx, "kept", `ENV RELEASE=1`, `ENTRYPOINT ["/bin/sh", "-c", "echo release=$RELEASE colour=$COLOUR; exec sleep 1000"]`)
	require.NoError(t, err)
	second, err := l.Images.Variant(l.Ctx, "kept", `ENV RELEASE=2`, `ENTRYPOINT ["/bin/sh", "-c", "echo other image; exec sleep 1000"]`)
	require.NoError(t, err)
	ref, err := registry.Push(l.Ctx, first, "kept:1")
	require.NoError(t, err)

	alloc := l.RunFile("kept-image", lab.Vars{"image": ref, "user": registry.User, "password": registry.Password})
	l.Lines(alloc, "web", "release=1 colour=green", 1)
	before, err := alloc.Container(l.Ctx, "web")
	require.NoError(t, err)

	require.NoError(t, l.Images.Move(l.Ctx, ref, second))
	moved, err := l.Images.ID(l.Ctx, ref)
	require.NoError(t, err)
	require.NotEqual(t, before.Image, moved)
	registry.Stop()
	for _, colour := range []string{"blue", "red"} {
		l.PutColour("kept-image", colour)
		l.Lines(alloc, "web", "release=1 colour="+colour, 1)
	}

	after, err := alloc.Container(l.Ctx, "web")
	require.NoError(t, err)
	require.NotEqual(t, before.ID, after.ID, "the rotation made no new container")
	require.Equal(t, before.Image, after.Image)
	l.NotRestarted(alloc, "web")
	others, err := alloc.Lines("web", "other image")
	require.NoError(t, err)
	require.Empty(t, others)
}
