package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
)

// An agent with a plugin file whose name does not say what to wrap does not start, and its log has the plugin's own line, which
// docs/troubleshooting.md quotes. Without the file it starts.
func TestMisnamedPluginFile(t *testing.T) {
	t.Parallel()
	l := newOwnLab(t, harness.AgentOptions{
		Name: "misnamed", Placement: placement, AgentHCL: `plugin "docker-secret" {}`, // as an operator would who has mistyped both
	}, lab.DefaultTimeout)
	l.Agent.Stop()
	right := l.Agent.PluginFile("docker")
	wrong := filepath.Join(filepath.Dir(right), "docker-secret")
	program, err := os.ReadFile(right)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(wrong, program, 0o755))
	require.ErrorContains(t, l.Agent.Start(l.Ctx), "nomad client ended by itself")

	log, err := os.ReadFile(l.Agent.LogPath)
	require.NoError(t, err)
	const line = `a plugin file named \"docker-secret\" does not say what to wrap: name it one of docker, docker-secrets, raw_exec, raw_exec-secrets`
	require.Regexp(t, `\[ERROR\] .*: the plugin cannot be served: .*error="`+regexp.QuoteMeta(line), string(log))
	page, err := os.ReadFile(filepath.Join(repoRoot(t), "docs/troubleshooting.md"))
	require.NoError(t, err)
	require.Contains(t, string(page), "`"+line+"`")
	require.Contains(t, string(page), "`failed to fingerprint plugin`")
	require.Contains(t, string(log), "failed to fingerprint plugin")

	require.NoError(t, os.Remove(wrong))
	require.NoError(t, l.Agent.Start(l.Ctx))
}
