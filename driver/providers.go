package driver

import (
	"fmt"
	"maps"
	"slices"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/nomadvar"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// providers are the providers that are built in, by the name that a job gives: how each is made of the plugin's options.
// Nothing is asked of a server for it.
var providers = map[string]func(options) (lifecycle.Provider, error){
	secrets.DefaultProvider: func(o options) (lifecycle.Provider, error) { return vault.New(o.vault) },
	secrets.NomadProvider:   func(o options) (lifecycle.Provider, error) { return nomadvar.New(o.nomad) },
}

// What they can do.
var (
	_ lifecycle.Waiter     = (*nomadvar.Client)(nil)
	_ lifecycle.Leaser     = (*vault.Client)(nil)
	_ lifecycle.Discoverer = (*vault.Client)(nil)
)

func providerNames() []string { return slices.Sorted(maps.Keys(providers)) }

// openProviders makes all that are built in.
func openProviders(o options) (map[string]lifecycle.Provider, error) {
	all := map[string]lifecycle.Provider{}
	for name, open := range providers {
		p, err := open(o)
		if err != nil {
			return nil, fmt.Errorf("provider %q: %w", name, err)
		}
		all[name] = p
	}
	return all, nil
}
