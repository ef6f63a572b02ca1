package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// A plugin that finds the journal of a newer version leaves the tasks alone, unwatched, and says so; its
// own tasks are as ever. The newer one, when it is back, watches them again, and pays what is owed: also
// for those that ended meanwhile (DESIGN 2, E1).
func TestJournalOfANewerPlugin(t *testing.T) {
	t.Parallel()
	vault, err := shared.NewVault(t.Context(), "vault-newer")
	require.NoError(t, err)
	l := newOwnLab(t, harness.AgentOptions{Name: "newer", Placement: harness.InPlace, Vault: vault}, 6*time.Minute)
	older := l.pluginVersion("docker")
	newer := changedPlugin(t, map[string]func([]byte) []byte{
		"driver/about.go":      setConst("Version", `"`+upgradedVersion+`"`),
		"lifecycle/journal.go": setConst("entryVersion", "99"),
	})
	l.upgrade(newer)
	start := func(prefix string) (tasks []*survivor) {
		for _, driver := range []string{"docker", "raw_exec"} {
			tasks = append(tasks, recovering{driver, "identity"}.startLeased(l, prefix, time.Hour))
		}
		return tasks
	}
	kept, ended, restarted, rotated, owed := start("kept"), start("ended"), start("restarted"), start("rotated"), start("owed")
	for _, s := range rotated { // whose process is not the one that Nomad knows
		s.rotates(l, "blue")
	}
	vault.Stop()
	for _, s := range owed {
		require.NoError(t, s.alloc.Job.Stop(l.ctx))
	}

	require.NoError(t, l.agent.Place(harness.InPlace))
	l.becomes(older)
	require.NoError(t, vault.Start(l.ctx))
	for _, s := range slices.Concat(kept, ended, restarted) {
		_, err := s.alloc.WaitEvent(l.ctx, "web", "not watched any more, since the journal cannot be used")
		require.NoError(t, err)
		l.stand([]standing{{alloc: s.alloc, task: "web", driver: s.driver, body: s.body}})
	}
	for _, s := range kept {
		l.putColour(s.name, "blue")
	}
	for _, s := range ended {
		require.NoError(t, s.alloc.Job.Stop(l.ctx))
	}
	for _, s := range restarted {
		require.NoError(t, s.alloc.Restart(l.ctx, "web"))
	}
	// Nomad has started those anew, too, whose process it does not know; the older plugin watches both.
	for _, s := range slices.Concat(restarted, rotated) {
		s.generation++
		l.lines(s.alloc, "web", "start ", s.generation)
		l.putColour(s.name, "red")
		s.generation++
		l.lines(s.alloc, "web", "start ", s.generation)
		require.Len(t, processesOf(s.alloc, "testapp"), 1)
		s.body = l.bodyOf(s.alloc, "web", s.driver)
		s.hasLeases(l, 2) // the first is the newer plugin's to revoke
	}
	for _, s := range slices.Concat(kept, ended, owed) {
		s.hasLeases(l, 1)
	}
	for _, s := range kept {
		require.Equal(t, s.body, l.bodyOf(s.alloc, "web", s.driver), "the process of %s", s.name)
	}

	l.upgrade(newer)
	for _, s := range slices.Concat(ended, owed) {
		s.hasLeases(l, 0)
	}
	for _, s := range kept {
		s.rotated(l, "blue") // with the lease that it had
	}
	for _, s := range slices.Concat(restarted, rotated) {
		s.hasLeases(l, 1)
		require.Equal(t, s.body, l.bodyOf(s.alloc, "web", s.driver), "the process of %s", s.name)
		s.look(l)
	}
	for _, s := range slices.Concat(kept, restarted, rotated) {
		s.ends(l)
	}
	l.nothingJournalled()
}

// hasLeases waits until the task has n leases.
func (s *survivor) hasLeases(l *lab, n int) {
	l.t.Helper()
	l.until(fmt.Sprintf("%d leases of %s", n, s.name), func() error {
		leases, err := l.agent.Vault().Leases(l.ctx, "database/creds/"+s.name)
		if err == nil && len(leases) != n {
			err = fmt.Errorf("leases %v", leases)
		}
		return err
	})
}
