package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// oldPlace is a state directory with what an older version left, and where it is to go.
type oldPlace struct {
	t          *testing.T
	top        string // the state directory
	old, place string
}

func newOldPlace(t *testing.T) oldPlace {
	t.Helper()
	top := t.TempDir()
	p := oldPlace{t: t, top: top, old: filepath.Join(top, "docker"), place: filepath.Join(top, "journal", "docker")}
	require.NoError(t, os.MkdirAll(p.place, 0o700))
	return p
}

// write makes a task's journal in a directory, with a lease, a token and a value whose names begin with mark.
func (p oldPlace) write(dir, alloc, name, mark string) {
	p.t.Helper()
	j, err := Create(dir, Entry{Task: Task{Driver: "docker", AllocID: alloc, Name: name}, Step: StepStarting})
	require.NoError(p.t, err)
	require.NoError(p.t, j.SaveToken(FromIdentity, secrets.Token{Value: secrets.TextValue(mark + "-token"), ID: mark}))
	require.NoError(p.t, j.AddLease(Lease{ID: secrets.LeaseID(mark + "-lease"), TokenID: mark}))
	require.NoError(p.t, j.Save(map[string]secrets.Fields{"db": secrets.NewFields(map[string]any{"value": mark + "-value"})}, func(*Entry) {}))
}

// pending makes a task's journal in a directory a pending revocation.
func (p oldPlace) pending(dir, alloc, name, mark string) {
	p.t.Helper()
	p.write(dir, alloc, name, mark)
	from := journalDir(dir, Task{AllocID: alloc, Name: name})
	require.NoError(p.t, os.MkdirAll(filepath.Join(dir, pendingDir), 0o700))
	require.NoError(p.t, os.Rename(from, filepath.Join(dir, pendingDir, "X"+mark)))
	removeAllocDir(from)
}

// fill leaves some of everything in the old place.
func (p oldPlace) fill() {
	p.t.Helper()
	p.write(p.old, "alloc-1", "web", "web-1")
	p.write(p.old, "alloc-1", "db", "db-1")
	p.write(p.old, "alloc-2", "web", "web-2")
	p.pending(p.old, "alloc-3", "web", "ended")
	// Nothing of these counts: a write that was cut short, one that was never begun, a removal cut short.
	require.NoError(p.t, os.WriteFile(filepath.Join(p.old, "alloc-1", "web", ".entry.json.tmp"), []byte("{"), 0o600))
	require.NoError(p.t, os.MkdirAll(filepath.Join(p.old, "alloc-4", "web"), 0o700))
	p.write(p.old, "alloc-5", "web", "removed")
	require.NoError(p.t, os.Remove(filepath.Join(p.old, "alloc-5", "web", entryFile)))
}

// all are the complete journals below a directory, as "path lease token value", pending revocations without the name
// that they got.
func (p oldPlace) all(dir string) []string {
	p.t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.Name() != entryFile || strings.Contains(path, "/"+takingDir+"/") {
			return err
		}
		j, err := openJournalDir(filepath.Dir(path))
		require.NoError(p.t, err)
		values, err := j.Values()
		require.NoError(p.t, err)
		value, _ := values["db"].Lookup("value")
		e2 := j.Entry()
		require.Len(p.t, e2.Leases, 1)
		tok, ok := j.Token(e2.Leases[0].TokenID)
		require.True(p.t, ok)
		at := e2.Task.AllocID + "/" + e2.Task.Name
		if filepath.Base(filepath.Dir(filepath.Dir(path))) == pendingDir {
			at = "pending " + at
		}
		found = append(found, fmt.Sprintf("%s %s %s %v", at, e2.Leases[0].ID, tok.Token.Value.Text(), value))
		return nil
	})
	require.NoError(p.t, err)
	slices.Sort(found)
	return found
}

var allOfOldPlace = []string{
	"alloc-1/db db-1-lease db-1-token db-1-value",
	"alloc-1/web web-1-lease web-1-token web-1-value",
	"alloc-2/web web-2-lease web-2-token web-2-value",
	"pending alloc-3/web ended-lease ended-token ended-value",
}

func (p oldPlace) takeOver() {
	p.t.Helper()
	require.NoError(p.t, TakeOver(p.old, p.place, hclog.NewNullLogger()))
}

// killed takes over until the nth step, and reports whether there is one.
func (p oldPlace) killed(nth int) (was bool) {
	p.t.Helper()
	type kill struct{}
	defer func() {
		if r := recover(); r != nil {
			require.Equal(p.t, kill{}, r)
			was = true
		}
	}()
	steps := 0
	take := newTakeOver(p.old, p.place, hclog.NewNullLogger())
	take.step = func() {
		if steps == nth {
			panic(kill{})
		}
		steps++
	}
	require.NoError(p.t, take.run())
	return false
}

// done: all is in its place, and nothing else is left.
func (p oldPlace) done(want ...string) {
	p.t.Helper()
	slices.Sort(want)
	require.Equal(p.t, want, p.all(p.place))
	left, err := os.ReadDir(p.top)
	require.NoError(p.t, err)
	require.Len(p.t, left, 1, "in the state directory")
	require.NoDirExists(p.t, filepath.Join(p.place, takingDir))
	for _, alloc := range []string{"alloc-4", "alloc-5"} {
		require.NoDirExists(p.t, filepath.Join(p.place, alloc))
	}
}

func TestTakeOver(t *testing.T) {
	p := newOldPlace(t)
	p.takeOver()
	p.done()
	p.fill()
	require.Equal(t, allOfOldPlace, p.all(p.old))
	p.takeOver()
	p.done(allOfOldPlace...)
	p.takeOver()
	p.done(allOfOldPlace...)
	for _, alloc := range []string{"alloc-1", "alloc-2"} {
		_, err := Open(p.place, Task{AllocID: alloc, Name: "web"})
		require.NoError(t, err)
	}
	require.NoError(t, filepath.WalkDir(p.place, func(path string, e fs.DirEntry, err error) error {
		info, statErr := e.Info()
		if err := errors.Join(err, statErr); err != nil {
			return err
		}
		want := os.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		}
		require.Equal(t, want, info.Mode().Perm(), path)
		return nil
	}))
}

// E2: a kill between any two steps loses nothing, and the older version, if it comes back then, finds all or
// nothing: no journal has two owners.
func TestTakeOverKilledAtAnyStep(t *testing.T) {
	for nth := 0; ; nth++ {
		p := newOldPlace(t)
		p.fill()
		was := p.killed(nth)
		if was {
			require.NoDirExists(t, p.old, "step %d", nth)
		}
		p.takeOver()
		p.done(allOfOldPlace...)
		if !was {
			require.Greater(t, nth, 10, "steps")
			return
		}
	}
}

// A downgrade in the midst of it, and an upgrade after that: the older version started a task again meanwhile. Its
// journal is the task's; what the earlier start had is to be revoked, once.
func TestTakeOverAfterADowngrade(t *testing.T) {
	want := []string{
		"alloc-1/db db-1-lease db-1-token db-1-value",
		"alloc-1/web web-again-lease web-again-token web-again-value",
		"alloc-2/web web-2-lease web-2-token web-2-value",
		"pending alloc-1/web web-1-lease web-1-token web-1-value",
		"pending alloc-3/web ended-lease ended-token ended-value",
	}
	for nth := 0; ; nth++ {
		p := newOldPlace(t)
		p.fill()
		was := p.killed(nth)
		p.write(p.old, "alloc-1", "web", "web-again")
		for again := 0; p.killed(again); again += 3 { // and killed in that, too
			continue
		}
		p.takeOver()
		p.done(want...)
		if !was {
			return
		}
	}
}

// What nobody can read is given up, and keeps nobody else's from being taken over.
func TestTakeOverOfWhatCannotBeRead(t *testing.T) {
	p := newOldPlace(t)
	p.fill()
	p.write(p.old, "alloc-6", "web", "big")
	require.NoError(t, os.Truncate(filepath.Join(p.old, "alloc-6", "web", valuesFile), MaxFile+1))
	require.NoError(t, os.WriteFile(filepath.Join(p.old, "stray"), nil, 0o600))
	require.NoError(t, os.Symlink("/etc", filepath.Join(p.old, "alloc-7")))
	p.takeOver()
	p.done(allOfOldPlace...)
}

// What a newer version wrote waits for its return, in its place.
func TestTakeOverOfANewerJournal(t *testing.T) {
	p := newOldPlace(t)
	p.write(p.old, "alloc-1", "web", "web")
	path := filepath.Join(p.old, "alloc-1", "web", entryFile)
	newer := fmt.Appendf(nil, `{"Version":%d,"Unheard":"of"}`, entryVersion+1)
	require.NoError(t, os.WriteFile(path, newer, 0o600))
	p.takeOver()
	content, err := os.ReadFile(filepath.Join(p.place, "alloc-1", "web", entryFile))
	require.NoError(t, err)
	require.Equal(t, newer, content)
}

func TestTakeOverFails(t *testing.T) {
	p := newOldPlace(t)
	p.fill()
	require.NoError(t, os.Remove(p.place))
	err := TakeOver(p.old, p.place, hclog.NewNullLogger())
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, p.old)
	require.NoError(t, os.Mkdir(p.place, 0o700))
	p.takeOver()
	p.done(allOfOldPlace...)
}
