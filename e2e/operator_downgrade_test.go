package e2e

import (
	"slices"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// A plugin that finds the journal of a newer version leaves the tasks alone, unwatched, and says so; its
// own tasks are as ever. The newer one, when it is back, watches them again, and pays what is pending: also
// for those that ended meanwhile (E1).
func TestJournalOfANewerPlugin(t *testing.T) {
	t.Parallel()
	vault, err := shared.NewVault(t.Context(), "vault-newer")
	require.NoError(t, err)
	l := newOwnLab(t, harness.AgentOptions{Name: "newer", Placement: harness.InPlace, Vault: vault}, 6*time.Minute)
	older := l.PluginVersion("docker")
	newer := lab.ChangedPlugin(t, map[string]func([]byte) []byte{
		"driver/about.go":            lab.SetConst("Version", `"`+lab.UpgradedVersion+`"`),
		"lifecycle/journal/entry.go": lab.SetConst("entryVersion", "99"),
	})
	l.Upgrade(newer)
	start := func(prefix string) (tasks []*lab.Survivor) {
		for _, driver := range []string{"docker", "raw_exec"} {
			tasks = append(tasks, lab.RecoveryTask{Driver: driver, Token: "identity"}.StartLeased(l, prefix, time.Hour))
		}
		return tasks
	}
	kept, ended, restarted, rotated, pending := start("kept"), start("ended"), start("restarted"), start("rotated"), start("pending")
	for _, s := range rotated { // whose process is not the one that Nomad knows
		s.Rotate(l, "blue")
	}
	vault.Stop()
	for _, s := range pending {
		require.NoError(t, s.Alloc.Job.Stop(l.Ctx))
	}

	require.NoError(t, l.Agent.Place(harness.InPlace))
	l.RestartAs(older)
	require.NoError(t, vault.Start(l.Ctx))
	for _, s := range slices.Concat(kept, ended, restarted) {
		_, err := s.Alloc.WaitEvent(l.Ctx, "web", "not watched any more, since the journal cannot be used")
		require.NoError(t, err)
		l.AllKept([]lab.KeptTask{{Alloc: s.Alloc, Task: "web", Driver: s.Driver, Process: s.Process}})
	}
	for _, s := range kept {
		l.PutColour(s.Name, "blue")
	}
	for _, s := range ended {
		require.NoError(t, s.Alloc.Job.Stop(l.Ctx))
	}
	for _, s := range restarted {
		require.NoError(t, s.Alloc.Restart(l.Ctx, "web"))
	}
	// Nomad has started those anew, too, whose process it does not know; the older plugin watches both.
	for _, s := range slices.Concat(restarted, rotated) {
		s.Generation++
		l.Lines(s.Alloc, "web", "start ", s.Generation)
		l.PutColour(s.Name, "red")
		s.Generation++
		l.Lines(s.Alloc, "web", "start ", s.Generation)
		require.Len(t, lab.ProcessesOf(s.Alloc, "testapp"), 1)
		s.Process = l.ProcessOf(s.Alloc, "web", s.Driver)
		s.AwaitLeases(l, 2) // the first is the newer plugin's to revoke
	}
	for _, s := range slices.Concat(kept, ended, pending) {
		s.AwaitLeases(l, 1)
	}
	for _, s := range kept {
		require.Equal(t, s.Process, l.ProcessOf(s.Alloc, "web", s.Driver), "the process of %s", s.Name)
	}

	l.Upgrade(newer)
	for _, s := range slices.Concat(ended, pending) {
		s.AwaitLeases(l, 0)
	}
	for _, s := range kept {
		s.AwaitRotation(l, "blue") // with the lease that it had
	}
	for _, s := range slices.Concat(restarted, rotated) {
		s.AwaitLeases(l, 1)
		require.Equal(t, s.Process, l.ProcessOf(s.Alloc, "web", s.Driver), "the process of %s", s.Name)
		s.Look(l)
	}
	for _, s := range slices.Concat(kept, restarted, rotated) {
		s.Stop(l)
	}
	l.JournalEmpty()
}
