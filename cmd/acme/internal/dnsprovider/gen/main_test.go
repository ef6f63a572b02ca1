//go:build !race

package main

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/dnsprovider"
)

// The table is of the pinned lego: it has each of that one's names, as built in or as left out, and no others. After
// another lego was pinned it is red until the table is generated anew.
func TestTableIsOfThePinnedLego(t *testing.T) {
	var module struct{ Dir string }
	require.NoError(t, goJSON(".", &module, "list", "-m", "-json=Dir", lego))
	providers, err := parseTable(filepath.Join(module.Dir, table))
	require.NoError(t, err)
	var names []string
	for _, p := range providers {
		names = append(names, p.Names...)
	}
	slices.Sort(names)
	ours := append(dnsprovider.Names(), dnsprovider.LeftOut()...)
	slices.Sort(ours)
	require.Equal(t, slices.Compact(names), ours)
}
