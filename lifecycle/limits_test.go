package lifecycle

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Each test here upholds a part of S8: one task cannot use up what all tasks of the node share.

// smallStateDir is a state directory with a file system of its own.
func smallStateDir(t *testing.T, options string) string {
	t.Helper()
	above := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", above, "tmpfs", 0, options), "these tests need root")
	t.Cleanup(func() { require.NoError(t, unix.Unmount(above, 0)) })
	require.NoError(t, os.Chmod(above, 0o755))
	return filepath.Join(above, "docker")
}

// statics gives n secrets that share one path with as many bytes in it.
func (w *world) statics(n, size int) many {
	w.vault.static["secret/app-1"] = map[string]any{"value": strings.Repeat("x", size)}
	all := many{}
	for i := range n {
		all[fmt.Sprintf("s%02d", i)] = secrets.SecretConfig{Path: "secret/app-1", ChangeMode: "noop"}
	}
	return all
}

// 30 secrets on one path of 8 MiB: refused by name after a few were read, and nothing is left.
func TestLimitOfTaskBytes(t *testing.T) {
	inWorld(t, func(w *world) {
		all := w.statics(30, secrets.MaxSecretBytes-100)
		_, err := w.keeper.Open(w.t.Context(), w.startOf(all), w.host)
		require.ErrorContains(t, err, "the task's secrets are larger than 32 MiB together")
		require.True(t, secrets.IsLimit(err))
		synctest.Wait()
		require.LessOrEqual(t, w.vault.called("read"), 4+limit.ForegroundAtOnce, "no more than were under way")
		require.Zero(t, w.keeper.memory.used)
		require.Zero(t, w.vault.liveTokens())
	})
}

// A change is held to the same: what is too much is not taken, and the task keeps what it has.
func TestLimitOfTaskBytesInRotation(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.open(w.statics(10, 1<<20))
		w.vault.with(func() { w.statics(10, 5<<20) })
		w.sleep(2 * time.Minute)
		require.Contains(t, w.host.said(), "not rotated")
		require.Contains(t, w.host.said(), "larger than 32 MiB together")
		w.vault.with(func() { w.statics(10, 2<<20) })
		w.sleep(time.Hour)
		require.Zero(t, w.keeper.memory.used)
		w.keeper.Close()
		sum := 0
		for _, h := range s.secrets {
			sum += h.answer.Fields.Size()
		}
		require.InDelta(t, 20<<20, sum, 1<<20, "when it is less again, all have it")
		w.start()
	})
}

// What many tasks fetch at once is bounded; one always goes on, and so do all that fetch little.
func TestLimitOfFetchedAtOnce(t *testing.T) {
	m := newMemory()
	const part = secrets.MaxTaskBytes / 4
	var tasks []*fetched
	for range 4 {
		f := m.open()
		require.NoError(t, f.add(part))
		tasks = append(tasks, f)
	}
	require.NoError(t, tasks[0].add(part), "the first that comes to it goes on")
	require.ErrorIs(t, tasks[1].add(part), errFetchBusy)
	require.True(t, secrets.IsElsewhere(errFetchBusy), "it is no outage of the server")
	require.NoError(t, tasks[0].add(part))
	small := m.open()
	require.NoError(t, small.add(smallTask))
	require.ErrorIs(t, small.add(1), errFetchBusy)
	require.NoError(t, tasks[0].add(part))
	require.True(t, secrets.IsLimit(tasks[0].add(1)))
	tasks[0].close()
	require.NoError(t, tasks[1].add(part))
	for _, f := range append(tasks, small) {
		f.close()
	}
	require.Zero(t, m.used)
	require.Nil(t, m.ahead)
}

// roomWith is a room on a file system of 100 MiB with that much free.
func roomWith(free *int64) *room {
	r := newRoom("/nowhere/docker")
	r.space = func(string) (int64, int64, error) { return 100 << 20, *free, nil }
	return r
}

func TestLimitReserve(t *testing.T) {
	written := func() error { return nil }
	ofSize := func(mib int) map[string]secrets.Fields {
		return map[string]secrets.Fields{"a": secrets.NewFields(map[string]any{"v": strings.Repeat("x", mib<<20*3/4)})}
	}
	free := int64(50 << 20)
	r := roomWith(&free)
	one, two := new(Session), new(Session)
	require.NoError(t, r.save(one, ofSize(10), written))
	require.NoError(t, r.start(20<<20, written))
	require.NoError(t, r.start(25<<20, written))
	err := r.start(26<<20, written)
	require.ErrorContains(t, err, "state_dir: the task's secrets take 26 MiB of 100 MiB, of which 50 MiB are free and 26 MiB are kept for the tasks that run")
	require.Equal(t, secrets.Outage, secrets.KindOf(err), "it is tried again")
	free = 30 << 20
	require.Error(t, r.save(two, ofSize(10), written), "a start does not go into the reserve")
	require.NoError(t, r.save(one, ofSize(20), written), "a rotation may, to a half")
	require.Error(t, r.save(one, ofSize(40), written))
	free = 1 << 20
	require.NoError(t, r.save(one, ofSize(20), written), "one of the same size may use all")
	require.NoError(t, r.save(one, ofSize(5), written))
	require.NoError(t, r.save(one, map[string]secrets.Fields{"a": fieldsOf("small")}, written))
	require.NoError(t, r.save(one, map[string]secrets.Fields{"a": fieldsOf("a little larger")}, written))
	err = r.start(1, written)
	require.ErrorContains(t, err, "25 MiB are kept", "however small")
	r.forget(one)
	require.Empty(t, r.tasks)
}

// A start that finds no room is refused, recoverably, and leaves nothing; when there is room it comes up.
func TestLimitNoRoomForStart(t *testing.T) {
	dir := smallStateDir(t, "size=16m")
	inWorldAt(t, dir, func(w *world) {
		all := w.statics(1, 2<<20)
		first, err := w.keeper.Open(w.t.Context(), w.startOf(all), w.host)
		require.NoError(t, err)
		first.Watch()

		w.vault.static["secret/app-1"] = map[string]any{"value": strings.Repeat("y", 6<<20)}
		second := w.startOf(all)
		second.Task.AllocID = "alloc-2"
		_, err = w.keeper.Open(w.t.Context(), second, w.host)
		require.ErrorContains(t, err, "state_dir: the task's secrets take")
		require.Equal(t, secrets.Outage, secrets.KindOf(err))
		synctest.Wait()
		_, err = os.Stat(filepath.Join(dir, "alloc-2"))
		require.ErrorIs(t, err, os.ErrNotExist)
		first.End()
	})
}

// Without any room a rotation is not done: the journal, the task and its set stay as they were, and it is
// done when there is room. Nothing else of the task suffers.
func TestLimitNoRoomForRotation(t *testing.T) {
	dir := smallStateDir(t, "size=8m")
	inWorldAt(t, dir, func(w *world) {
		w.statics(1, 1<<20)
		s := w.open(many{"s00": {Path: "secret/app-1", AllFiles: true, ChangeMode: "noop"}})
		before := s.Set()
		kept, err := os.ReadFile(filepath.Join(w.dir, s.task.AllocID, s.task.Name, "values.json"))
		require.NoError(t, err)

		junk := filepath.Join(filepath.Dir(dir), "junk")
		require.ErrorIs(t, os.WriteFile(junk, make([]byte, 16<<20), 0o600), unix.ENOSPC)
		w.vault.with(func() { w.vault.static["secret/app-1"] = map[string]any{"value": strings.Repeat("y", 1<<20)} })
		w.sleep(time.Minute)
		require.Same(t, before, s.Set())
		require.Contains(t, w.host.said(), "state_dir is full")
		now, err := os.ReadFile(filepath.Join(w.dir, s.task.AllocID, s.task.Name, "values.json"))
		require.NoError(t, err)
		require.True(t, string(kept) == string(now))

		require.NoError(t, os.Remove(junk))
		w.sleep(time.Hour)
		require.NotSame(t, before, s.Set())
		w.keeper.Close()
		w.start()
		again, err := w.keeper.Recover(w.task(), w.host)
		require.NoError(t, err)
		again.Watch()
		again.End()
	})
}

// An event about two hundred rotations names twenty, and says what was done.
func TestLimitOfEvents(t *testing.T) {
	r := &rotation{}
	for i := range 200 {
		r.batch = append(r.batch, &change{name: fmt.Sprintf("secret-%03d", i), why: because(CauseNotRenewable)})
	}
	said := eventRotated(r, "task restarted in place")
	require.Contains(t, said, `secret "secret-000" rotated`)
	require.NotContains(t, said, "secret-020")
	require.Contains(t, said, "and 180 more; task restarted in place")
	require.LessOrEqual(t, len(said), 2<<10)
	said = eventNotRotated(&secretState{secret: &secrets.Secret{Name: "db"}, ends: time.Unix(0, 0)}, fmt.Errorf("secret \"db\": %s", strings.Repeat("x", 10_000)))
	require.LessOrEqual(t, len(said), 2<<10)
	require.Contains(t, said, "; the current one ends at 00:00:00 UTC")
}
