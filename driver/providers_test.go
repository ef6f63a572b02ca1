package driver

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Those that are built in are the ones that a job may name, and each can be made of an agent's options alone.
func TestProviders(t *testing.T) {
	opts, err := parseOptions("docker", nil)
	require.NoError(t, err)
	all, err := openProviders(opts)
	require.NoError(t, err)
	require.Len(t, all, len(providerNames()))
	for _, name := range providerNames() {
		require.NotNil(t, all[name])
		_, err := secrets.Compile(secrets.TaskConfig{Secrets: map[string]*secrets.SecretConfig{"app": {Provider: name, Path: "nomad/jobs/app"}}}, providerNames()...)
		require.NoError(t, err)
	}
}
