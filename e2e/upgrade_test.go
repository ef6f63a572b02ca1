package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// A plugin upgraded under running tasks restarts none; commands in a container go through the launcher
// that it was started with, and the next process has the new one (L1, DESIGN 2).
func TestUpgradeUnderRunningTasks(t *testing.T) {
	t.Parallel()
	h := newHunt(t, harness.AgentOptions{Name: "upgrade", Placement: harness.InPlace})
	values := map[string]string{"restart": h.put("upgrade-restart", "first"), "noop": h.put("upgrade-noop", "first, too")}
	h.mayRead("upgrade", "secret/data/upgrade-restart", "secret/data/upgrade-noop")
	var tasks string
	drivers := map[string]string{"docker": `image = "${meta.image}"`, "raw_exec": ""}
	for driver, image := range drivers {
		tasks += fmt.Sprintf(`
    task "%[1]s" {
      driver = "%[1]s"
      identity {
        name     = "vault"
        aud      = ["vault.io"]
        ttl      = "1h"
        file     = true
        filepath = "private/vault.jwt"
      }
      config {
        %[2]s
        command = "testapp"
        args    = ["sleep"]
        role    = "upgrade"
        splay   = "0s"
        stagger = "0s"
        secret "a" {
          path = "secret/upgrade-restart"
          env  = { RESTART = "value" }
        }
        secret "b" {
          path        = "secret/upgrade-noop"
          env         = { NOOP = "value" }
          change_mode = "noop"
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }`, driver, image)
	}
	alloc := h.run("job \"upgrade\" {\n  group \"g\" {" + tasks + "\n  }\n}")
	for driver := range drivers {
		h.lines(alloc, driver, "start ", 1)
	}
	launcher, args := h.launcherOf(alloc)
	// The container shows what it runs, for whoever looks at it.
	require.Equal(t, []string{"--", "testapp", "sleep"}, args[len(args)-3:])

	plugin := upgradedPlugin(t)
	h.upgrade(plugin)

	values["noop"] = h.put("upgrade-noop", "second")
	for driver := range drivers {
		h.execSees(alloc, driver, "NOOP", values["noop"])
		h.execSees(alloc, driver, "RESTART", values["restart"])
		require.Len(t, h.lines(alloc, driver, "start ", 1), 1, "an upgrade restarts nothing")
	}
	still, _ := h.launcherOf(alloc)
	require.Equal(t, launcher, still)

	values["restart"] = h.put("upgrade-restart", "second, too")
	for driver := range drivers {
		h.lines(alloc, driver, "start ", 2)
		h.execSees(alloc, driver, "RESTART", values["restart"])
	}
	now, args := h.launcherOf(alloc)
	require.NotEqual(t, launcher, now, "the container has the new plugin's launcher")
	require.Equal(t, []string{"--", "testapp", "sleep"}, args[len(args)-3:])
	t.Cleanup(func() { _ = os.Remove(now) })
}

// launcherOf is the file on the host that the docker task's container has as its launcher, and the
// arguments that Docker knows.
func (h *hunt) launcherOf(alloc *harness.Alloc) (file string, args []string) {
	h.t.Helper()
	container, err := alloc.Container(h.ctx, "docker")
	require.NoError(h.t, err)
	for _, m := range container.Mounts {
		if m.Destination == container.Path {
			return m.Source, container.Args
		}
	}
	h.t.Fatalf("what the container runs, %s, is no mount: %+v", container.Path, container.Mounts)
	return "", nil
}

// upgrade installs another plugin of upgradedVersion under the running tasks.
func (l *lab) upgrade(plugin string) {
	l.t.Helper()
	for _, driver := range []string{"docker", "raw_exec"} {
		require.NoError(l.t, l.agent.InstallPlugin(plugin, driver))
	}
	l.becomes(upgradedVersion)
}

// becomes restarts the agent, and waits until its plugins are of this version.
func (l *lab) becomes(version string) {
	l.t.Helper()
	require.NoError(l.t, l.agent.Restart(l.ctx))
	l.until("the node to have the plugin's version "+version, func() error {
		for _, driver := range []string{"docker", "raw_exec"} {
			if is := l.pluginVersion(driver); is != version {
				return fmt.Errorf("its %s is %s", driver, is)
			}
		}
		return nil
	})
}

func (l *lab) pluginVersion(driver string) string {
	l.t.Helper()
	node, err := l.agent.Node(l.ctx)
	require.NoError(l.t, err)
	return node.Attributes["driver."+driver+".secrets"]
}

const upgradedVersion = "99.0.0"

// upgradedPlugin is this plugin with another version and another launcher in it.
func upgradedPlugin(t *testing.T) string {
	t.Helper()
	return changedPlugin(t, map[string]func([]byte) []byte{
		"driver/about.go": setConst("Version", `"`+upgradedVersion+`"`),
		"driver/launcher/launcher_" + runtime.GOARCH + ".bin": func(launcher []byte) []byte {
			return append(bytes.Clone(launcher), "upgraded"...) // an ELF file may have a tail
		},
	})
}

// setConst changes a constant in Go source.
func setConst(name, value string) func([]byte) []byte {
	return func(source []byte) []byte {
		return regexp.MustCompile(`(?m)^const `+name+` = .*$`).ReplaceAll(source, []byte("const "+name+" = "+value))
	}
}

// changedPlugin is this plugin, built from changed files: path in the repository → change.
func changedPlugin(t *testing.T, changes map[string]func([]byte) []byte) string {
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
		require.NotEqual(t, content, changed, original)
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
