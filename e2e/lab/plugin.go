package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// Versions that plugins of another age say they have.
const (
	UpgradedVersion = "99.0.0"
	OlderVersion    = "0.1.99"
)

// Upgrade installs another plugin of UpgradedVersion under the running tasks.
func (l *Lab) Upgrade(plugin string) {
	l.T.Helper()
	for _, driver := range []string{"docker", "raw_exec"} {
		require.NoError(l.T, l.Agent.InstallPlugin(plugin, driver))
	}
	l.RestartAs(UpgradedVersion)
}

// RestartAs restarts the agent, and waits until its plugins are of this version.
func (l *Lab) RestartAs(version string) {
	l.T.Helper()
	require.NoError(l.T, l.Agent.Restart(l.Ctx))
	l.Until("the node to have the plugin's version "+version, func() error {
		for _, driver := range []string{"docker", "raw_exec"} {
			if is := l.PluginVersion(driver); is != version {
				return fmt.Errorf("its %s is %s", driver, is)
			}
		}
		return nil
	})
}

// PluginVersion is the version of a driver's plugin, as the node has it.
func (l *Lab) PluginVersion(driver string) string {
	l.T.Helper()
	node, err := l.Agent.Node(l.Ctx)
	require.NoError(l.T, err)
	return node.Attributes["driver."+driver+".secrets"]
}

// SetConst changes a constant, or a variable that a build may set, in Go source.
func SetConst(name, value string) func([]byte) []byte {
	return func(source []byte) []byte {
		return regexp.MustCompile(`(?m)^(const|var) `+name+` = .*$`).ReplaceAll(source, []byte("${1} "+name+" = "+value))
	}
}

// ChangedPlugin is this plugin, built from changed files: path in the repository → change.
func ChangedPlugin(t *testing.T, changes map[string]func([]byte) []byte) string {
	t.Helper()
	root, err := harness.RepoRoot()
	require.NoError(t, err)
	dir := t.TempDir()
	replace := map[string]string{}
	for path, change := range changes {
		original := filepath.Join(root, path)
		content, err := os.ReadFile(original)
		require.NoError(t, err)
		changed := change(content)
		require.False(t, bytes.Equal(content, changed), "%s has nothing to change", original)
		replace[original] = filepath.Join(dir, filepath.Base(original))
		require.NoError(t, os.WriteFile(replace[original], changed, 0o600))
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	require.NoError(t, err)
	overlayFile := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(overlayFile, overlay, 0o600))

	plugin := filepath.Join(dir, "plugin")
	build := exec.Command("go", "build", "-overlay", overlayFile, "-trimpath", "-ldflags", "-s -w", "-o", plugin, "./cmd/plugin")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return plugin
}

// Plugins are the processes that serve the drivers.
func (l *Lab) Plugins() map[string]int {
	l.T.Helper()
	pids := map[string]int{}
	for _, driver := range []string{"docker", "raw_exec"} {
		pid, err := l.Agent.PluginPID(driver)
		require.NoError(l.T, err)
		pids[driver] = pid
	}
	return pids
}

// KillPlugins kills both drivers' plugins, and waits until Nomad has started them again.
func (l *Lab) KillPlugins() {
	l.T.Helper()
	for driver, dead := range l.Plugins() {
		require.NoError(l.T, l.Agent.KillPlugin(driver))
		l.Until("a new plugin for "+driver, func() error {
			pid, err := l.Agent.PluginPID(driver)
			if err == nil && pid == dead {
				err = fmt.Errorf("it is still process %d", pid)
			}
			return err
		})
	}
}
