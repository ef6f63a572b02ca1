package e2e

import (
	"bytes"
	"os"
	"runtime"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// A plugin upgraded under running tasks restarts none; commands in a container go through the launcher
// that it was started with, and the next process has the new one (L1).
func TestUpgradeUnderRunningTasks(t *testing.T) {
	t.Parallel()
	h := newLeakSearch(t, harness.AgentOptions{Name: "upgrade", Placement: harness.InPlace})
	values := map[string]string{"restart": h.Put("upgrade-restart", "first"), "noop": h.Put("upgrade-noop", "first, too")}
	h.AllowLeased("upgrade", "secret/data/upgrade-restart", "secret/data/upgrade-noop")
	drivers := []string{"docker", "raw_exec"}
	alloc := h.RunFile("upgrade", nil)
	for _, driver := range drivers {
		h.Lines(alloc, driver, "start ", 1)
	}
	launcher, args := launcherOf(h, alloc)
	// The container shows what it runs, for whoever looks at it.
	require.Equal(t, []string{"--", "testapp", "sleep"}, args[len(args)-3:])

	plugin := upgradedPlugin(t)
	h.Upgrade(plugin)

	values["noop"] = h.Put("upgrade-noop", "second")
	for _, driver := range drivers {
		h.ExecSees(alloc, driver, "NOOP", values["noop"])
		h.ExecSees(alloc, driver, "RESTART", values["restart"])
		require.Len(t, h.Lines(alloc, driver, "start ", 1), 1, "an upgrade restarts nothing")
	}
	still, _ := launcherOf(h, alloc)
	require.True(t, bytes.Equal(launcher, still))

	values["restart"] = h.Put("upgrade-restart", "second, too")
	for _, driver := range drivers {
		h.Lines(alloc, driver, "start ", 2)
		h.ExecSees(alloc, driver, "RESTART", values["restart"])
	}
	now, args := launcherOf(h, alloc)
	require.True(t, bytes.HasSuffix(now, []byte("upgraded")), "the container has the new plugin's launcher")
	require.Equal(t, []string{"--", "testapp", "sleep"}, args[len(args)-3:])
}

// launcherOf is what the docker task's container has as its launcher, a file on the host, and the arguments that Docker knows.
func launcherOf(h *lab.LeakSearch, alloc *harness.Alloc) (program []byte, args []string) {
	h.T.Helper()
	container, err := alloc.Container(h.Ctx, "docker")
	require.NoError(h.T, err)
	for _, m := range container.Mounts {
		if m.Destination == container.Path {
			program, err := os.ReadFile(m.Source)
			require.NoError(h.T, err)
			return program, container.Args
		}
	}
	require.Failf(h.T, "no mount", "what the container runs, %s, is none of %+v", container.Path, container.Mounts)
	return nil, nil
}

// upgradedPlugin is this plugin with another version and another launcher in it.
func upgradedPlugin(t *testing.T) string {
	t.Helper()
	return lab.ChangedPlugin(t, map[string]func([]byte) []byte{
		"driver/about.go": lab.SetConst("Version", `"`+lab.UpgradedVersion+`"`),
		"driver/launcher/launcher_" + runtime.GOARCH + ".bin": func(launcher []byte) []byte {
			return append(bytes.Clone(launcher), "upgraded"...) // an ELF file may have a tail
		},
	})
}
