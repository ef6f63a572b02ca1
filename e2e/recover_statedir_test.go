package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// When an operator moves state_dir, tasks with secrets run on, and an event says that nobody watches them; a
// restart helps. Nothing is said of other tasks.
func TestStateDirMoved(t *testing.T) {
	t.Parallel()
	l := newOwnLab(t, harness.AgentOptions{Name: "state-moved", Placement: harness.InPlace}, 5*time.Minute)
	var tasks []*lab.Survivor
	for _, r := range []lab.RecoveryTask{{Driver: "docker", Token: "identity"}, {Driver: "raw_exec", Token: "identity"}} {
		tasks = append(tasks, r.StartLeased(l, "state-moved", time.Hour))
	}
	plain := l.RunPlain("state-moved-plain")

	l.Agent.StateDir = filepath.Join(filepath.Dir(l.Agent.StateDir), "moved")
	require.NoError(t, l.Agent.Place(harness.InPlace))
	require.NoError(t, l.Agent.Restart(l.Ctx))
	const unwatched = "Secrets: not watched"
	for _, s := range tasks {
		event, err := s.Alloc.WaitEvent(l.Ctx, "web", unwatched)
		require.NoError(t, err)
		require.Contains(t, event, "no journal of the task under "+l.Agent.StateDir+" (was state_dir changed?); restart the task")
		l.AllKept([]lab.KeptTask{{Alloc: s.Alloc, Task: "web", Driver: s.Driver, Process: s.Process}})
		require.Equal(t, 1, eventsWith(l, s, unwatched))
	}
	l.AllKept(plain)
	for _, s := range plain {
		l.NoPluginEvents(s)
	}

	for _, s := range tasks {
		require.NoError(t, s.Alloc.Restart(l.Ctx, "web"))
		s.Generation++
		l.Lines(s.Alloc, "web", "start ", s.Generation)
		l.PutColour(s.Name, "blue")
		s.Generation++
		l.Lines(s.Alloc, "web", "start ", s.Generation)
		s.AwaitLeases(l, 2) // the first is known in the old directory alone
		require.NoError(t, s.Alloc.Job.Stop(l.Ctx))
		s.AwaitLeases(l, 1)
	}
	l.JournalEmpty()
}

// eventsWith counts the events of a task that have a text in them.
func eventsWith(l *lab.Lab, s *lab.Survivor, text string) int {
	l.T.Helper()
	events, err := s.Alloc.Events(l.Ctx, "web")
	require.NoError(l.T, err)
	return len(slices.DeleteFunc(events, func(e string) bool { return !strings.Contains(e, text) }))
}

// oldLayout makes of this plugin one that keeps its journal at <state_dir>/<driver>, as versions up to 0.2.0 did.
func oldLayout(source []byte) []byte {
	return []byte(strings.NewReplacer(
		"state, err := statedir.Open(d.opts.stateDir)", "var err error",
		"cfg.StateDir, err = d.openJournal(state)", "cfg.StateDir = filepath.Join(d.opts.stateDir, d.name)",
	).Replace(string(source)))
}

// Journals and pending revocations of a version that kept them elsewhere are taken over under running tasks; after a
// downgrade the tasks run on, and the next upgrade takes over what is left of both (E1).
func TestJournalAtTheOldPlace(t *testing.T) {
	older := lab.ChangedPlugin(t, map[string]func([]byte) []byte{
		"driver/about.go":  lab.SetConst("Version", `"`+lab.OlderVersion+`"`),
		"driver/driver.go": oldLayout,
	})
	for name, inMemory := range map[string]bool{"disk": false, "memory": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vault, err := shared.NewVault(t.Context(), "vault-old-place-"+name)
			require.NoError(t, err)
			l := newOwnLab(t, harness.AgentOptions{Name: "old-place-" + name, Placement: harness.InPlace, Vault: vault, StateInMemory: inMemory}, 8*time.Minute)
			current := l.PluginVersion("docker")
			install := func(plugin, version string) {
				for _, driver := range []string{"docker", "raw_exec"} {
					require.NoError(t, l.Agent.InstallPlugin(plugin, driver))
				}
				l.RestartAs(version)
			}
			start := func(prefix string) (tasks []*lab.Survivor) {
				for _, driver := range []string{"docker", "raw_exec"} {
					tasks = append(tasks, lab.RecoveryTask{Driver: driver, Token: "identity"}.StartLeased(l, prefix+"-"+name, 90*time.Second))
				}
				return tasks
			}

			install(older, lab.OlderVersion)
			kept, again, pending := start("kept"), start("again"), start("pending")
			for _, s := range slices.Concat(kept, again) {
				require.DirExists(t, filepath.Join(l.Agent.StateDir, s.Driver, s.Alloc.ID), "the older version's journal")
			}
			vault.Stop()
			for _, s := range pending {
				require.NoError(t, s.Alloc.Job.Stop(l.Ctx))
			}

			require.NoError(t, l.Agent.Place(harness.InPlace))
			l.RestartAs(current)
			require.NoError(t, vault.Start(l.Ctx))
			for _, s := range pending {
				s.AwaitLeases(l, 0)
			}
			for _, s := range slices.Concat(kept, again) {
				s.Untouched(l)
				require.DirExists(t, filepath.Join(l.Agent.JournalDir(), s.Driver, s.Alloc.ID))
			}
			onlyTheNewPlace(l)

			// The older version finds no journal.
			install(older, lab.OlderVersion)
			for _, s := range slices.Concat(kept, again) {
				l.AllKept([]lab.KeptTask{{Alloc: s.Alloc, Task: "web", Driver: s.Driver, Process: s.Process}})
			}
			for _, s := range again {
				require.NoError(t, s.Alloc.Restart(l.Ctx, "web"))
				s.Generation++
				l.Lines(s.Alloc, "web", "start ", s.Generation)
				s.AwaitLeases(l, 2)
			}

			require.NoError(t, l.Agent.Place(harness.InPlace))
			l.RestartAs(current)
			for _, s := range again {
				s.AwaitLeases(l, 1) // that of its first start is revoked
			}
			onlyTheNewPlace(l)
			for _, s := range kept {
				s.Rotate(l, "blue") // with the lease that it had
			}
			for _, s := range again {
				l.PutColour(s.Name, "blue")
				s.Generation++
				l.Lines(s.Alloc, "web", "start ", s.Generation)
			}
			for _, s := range slices.Concat(kept, again) {
				s.Stop(l)
			}
			l.JournalEmpty()
		})
	}
}
