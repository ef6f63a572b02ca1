package journal

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

var testTask = Task{Driver: "docker", AllocID: "0c5d6f4e", Name: "web", ID: "0c5d6f4e/web/1", AllocIndex: 2, Dir: "/alloc/web"}

// fieldsOf is a secret with one field.
func fieldsOf(value string) secrets.Fields {
	return secrets.NewFields(map[string]any{"value": value})
}

func newStateDir(t testing.TB) string { return filepath.Join(t.TempDir(), "state", "docker") }

func newJournal(t *testing.T, stateDir string) *Journal {
	t.Helper()
	j, err := Create(stateDir, Entry{Task: testTask, Step: "fetch", TokenSource: FromIdentity, TokenProvider: "vault"})
	require.NoError(t, err)
	return j
}

// What was written is there for the next process (C4, E2).
func TestJournalSurvives(t *testing.T) {
	stateDir := newStateDir(t)
	_, err := Open(stateDir, testTask)
	require.ErrorIs(t, err, ErrNone)

	j := newJournal(t, stateDir)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	tok := secrets.Token{Value: secrets.TextValue("hvs.one"), ID: "acc", Accessor: "of acc", Expires: at, TTL: time.Hour, Renewable: true}
	require.NoError(t, j.SaveToken(FromIdentity, tok))
	require.NoError(t, j.AddLease(Lease{Provider: "vault", ID: "database/creds/a/1", TokenID: "acc"}))
	require.NoError(t, j.AddLease(Lease{Provider: "vault", ID: "database/creds/a/2", TokenID: "acc"}))
	require.NoError(t, j.AddLease(Lease{Provider: "vault", ID: "database/creds/a/1", TokenID: "acc", Ends: at}))
	require.NoError(t, j.ForgetLeases("database/creds/a/2"))
	require.NoError(t, j.Save(map[string]secrets.Fields{"db": fieldsOf("\x00\uFFFDpassword")}, func(*Entry) {}))
	written := Secret{
		Provider: "vault", Kind: secrets.Leased, LeaseID: "database/creds/a/1", Duration: time.Hour, Renewable: true,
		IssuedAt: at, ExpiresAt: at, TokenID: "acc",
	}
	prefix := "APP_"
	require.NoError(t, j.Update(func(e *Entry) {
		e.Step = "watch"
		e.Config.Secrets = map[string]*secrets.SecretConfig{"db": {Path: "database/creds/a", EnvPrefix: &prefix}}
		e.Driver = json.RawMessage(`{"handle":[1,2]}`)
		e.Secrets = map[string]Secret{"db": written}
	}))

	j2, err := Open(stateDir, testTask)
	require.NoError(t, err)
	e := j2.Entry()
	require.Equal(t, j.Entry(), e)
	require.Equal(t, entryVersion, e.Version)
	require.Equal(t, testTask, e.Task)
	require.Equal(t, []Lease{{Provider: "vault", ID: "database/creds/a/1", TokenID: "acc", Ends: at}}, e.Leases)
	require.Equal(t, written, e.Secrets["db"])
	require.Equal(t, "APP_", *e.Config.Secrets["db"].EnvPrefix)
	got, ok := j2.Token("acc")
	require.True(t, ok)
	require.Equal(t, tok, got.Token)
	require.Equal(t, FromIdentity, got.Source)
	values, err := j2.Values()
	require.NoError(t, err)
	field, _ := values["db"].Lookup("value")
	require.Equal(t, "\x00\uFFFDpassword", field)

	tasks, err := List(stateDir)
	require.NoError(t, err)
	require.Equal(t, []Task{testTask}, tasks)

	require.NoError(t, j2.Remove())
	require.NoError(t, j2.Remove())
	require.ErrorIs(t, j2.AddLease(Lease{ID: "late"}), ErrClosed)
	require.ErrorIs(t, j2.SaveToken(FromIdentity, tok), ErrClosed)
	require.ErrorIs(t, j2.Save(nil, func(*Entry) {}), ErrClosed)
	_, err = Open(stateDir, testTask)
	require.ErrorIs(t, err, ErrNone)
	left, err := os.ReadDir(stateDir)
	require.NoError(t, err)
	require.Empty(t, left, "the alloc's directory goes with its last task")
}

// Values and tokens rest in their own files and nowhere else; nobody but the owner gets in.
func TestJournalKeepsToItself(t *testing.T) {
	stateDir := newStateDir(t)
	j := newJournal(t, stateDir)
	require.NoError(t, j.SaveToken(FromVaultBlock, secrets.Token{Value: secrets.TextValue("hvs.SECRET"), ID: "a"}))
	require.NoError(t, j.Save(map[string]secrets.Fields{"db": fieldsOf("SECRET")}, func(*Entry) {}))

	b, err := os.ReadFile(filepath.Join(j.dir, entryFile))
	require.NoError(t, err)
	require.NotContains(t, string(b), "SECRET")
	require.NotContains(t, fmt.Sprintf("%+v %#v", j.tokens, j.tokens), "SECRET")

	require.NoError(t, filepath.WalkDir(stateDir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		require.Equal(t, want, info.Mode().Perm(), path)
		return nil
	}))
}

func TestJournalTokens(t *testing.T) {
	j := newJournal(t, newStateDir(t))
	tok := secrets.Token{Value: secrets.TextValue("one"), ID: "a", TTL: time.Hour}
	require.NoError(t, j.SaveToken(FromIdentity, tok))
	first, _ := j.Token("a")
	tok.TTL = time.Minute
	require.NoError(t, j.SaveToken(FromIdentity, tok))
	renewed, _ := j.Token("a")
	require.Equal(t, time.Minute, renewed.Token.TTL)
	require.Equal(t, first.SavedAt, renewed.SavedAt, "a renewed token is as old as it was")
	require.NoError(t, j.SaveToken(FromIdentity, secrets.Token{Value: secrets.TextValue("two"), ID: "b"}))
	require.NoError(t, j.ForgetToken("a"))
	_, ok := j.Token("a")
	require.False(t, ok)
	_, ok = j.Token("b")
	require.True(t, ok)
}

// A second start of a task does not overwrite what is to be revoked of the first.
func TestJournalExists(t *testing.T) {
	stateDir := newStateDir(t)
	newJournal(t, stateDir)
	_, err := Create(stateDir, Entry{Task: testTask})
	require.ErrorIs(t, err, fs.ErrExist)
}

// A crash between any two system calls of a write leaves the old or the new (E2).
func TestJournalCrashLeftovers(t *testing.T) {
	stateDir := newStateDir(t)
	dir := journalDir(stateDir, testTask)

	// In the middle of createJournal, or of remove: directories, and perhaps other files, but no entry.
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for _, leftover := range []string{".entry.json.tmp", tokensFile, valuesFile} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, leftover), []byte(`{"Version":1,"Tok`), 0o644))
	}
	_, err := Open(stateDir, testTask)
	require.ErrorIs(t, err, ErrNone)
	tasks, err := List(stateDir)
	require.NoError(t, err)
	require.Empty(t, tasks)
	j := newJournal(t, stateDir)
	require.NoError(t, j.AddLease(Lease{ID: "l"}))

	// In the middle of update.
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".entry.json.tmp"), []byte(`{"Version":1,"Ta`), 0o600))
	j, err = Open(stateDir, testTask)
	require.NoError(t, err)
	require.Len(t, j.Entry().Leases, 1)
	require.NoError(t, j.AddLease(Lease{ID: "m"}))
	require.NoFileExists(t, filepath.Join(dir, ".entry.json.tmp"))
}

// What makes no sense is told apart from what is not there: such a task runs on, unwatched (docs/failures.md, "When things fail").
func TestJournalUnreadable(t *testing.T) {
	newer := fmt.Sprintf(`{"Version":%d,"Task":"a string now"}`, entryVersion+1)
	for _, c := range []struct {
		name, file, content string
		want                error
	}{
		{"truncated", entryFile, `{"Version":1,"Task":{"Driver":"do`, ErrUnreadable},
		{"empty", entryFile, ``, ErrUnreadable},
		{"no version", entryFile, `{"Task":{}}`, ErrUnreadable},
		{"newer", entryFile, newer, ErrNewer},
		{"another task's", entryFile, `{"Version":1,"Task":{"AllocID":"x","Name":"y"}}`, ErrUnreadable},
		{"newer tokens", tokensFile, newer, ErrNewer},
		{"truncated tokens", tokensFile, `{"Version":1,"Tokens":{"a":{"Value":"U0VDUkVU`, ErrUnreadable},
		{"tokens of another type", tokensFile, `{"Version":1,"Tokens":{"a":{"Value":5318008}}}`, ErrUnreadable},
	} {
		t.Run(c.name, func(t *testing.T) {
			stateDir := newStateDir(t)
			j := newJournal(t, stateDir)
			require.NoError(t, os.WriteFile(filepath.Join(j.dir, c.file), []byte(c.content), 0o600))
			_, err := Open(stateDir, testTask)
			require.ErrorIs(t, err, c.want)
			require.ErrorIs(t, err, ErrUnreadable)
			require.NotErrorIs(t, err, ErrNone)
			require.NotContains(t, err.Error(), "5318008", "an error quotes no token")
		})
	}

	stateDir := newStateDir(t)
	j := newJournal(t, stateDir)
	b, err := os.ReadFile(filepath.Join(j.dir, entryFile))
	require.NoError(t, err)
	b = []byte(strings.Replace(string(b), `{`, `{"Unheard":{"of":1},`, 1))
	require.NoError(t, os.WriteFile(filepath.Join(j.dir, entryFile), b, 0o600))
	_, err = Open(stateDir, testTask)
	require.NoError(t, err, "unknown fields are ignored")
	require.NoError(t, os.WriteFile(filepath.Join(j.dir, valuesFile), []byte(`{"Version":1,"Values":{"db":42424242}}`), 0o600))
	_, err = j.Values()
	require.ErrorIs(t, err, ErrUnreadable)
	require.NotContains(t, err.Error(), "42424242")
}

// Nothing that was put in a file's or a directory's place is followed.
func TestJournalHostile(t *testing.T) {
	target := filepath.Join(t.TempDir(), "target")
	require.NoError(t, os.WriteFile(target, []byte(`{"Version":1,"Task":{"AllocID":"0c5d6f4e","Name":"web"}}`), 0o600))

	t.Run("entry is a link", func(t *testing.T) {
		stateDir := newStateDir(t)
		j := newJournal(t, stateDir)
		require.NoError(t, os.Remove(filepath.Join(j.dir, entryFile)))
		require.NoError(t, os.Symlink(target, filepath.Join(j.dir, entryFile)))
		_, err := Open(stateDir, testTask)
		require.ErrorIs(t, err, ErrUnreadable)
	})
	t.Run("temporary name is a link", func(t *testing.T) {
		before, err := os.ReadFile(target)
		require.NoError(t, err)
		j := newJournal(t, newStateDir(t))
		require.NoError(t, os.Symlink(target, filepath.Join(j.dir, ".entry.json.tmp")))
		require.NoError(t, j.AddLease(Lease{ID: "l"}))
		after, err := os.ReadFile(target)
		require.NoError(t, err)
		require.Equal(t, before, after)
	})
	t.Run("task directory is a link", func(t *testing.T) {
		stateDir := newStateDir(t)
		j := newJournal(t, stateDir)
		aside := filepath.Join(t.TempDir(), "aside")
		require.NoError(t, os.Rename(j.dir, aside))
		require.NoError(t, os.Symlink(aside, j.dir))
		_, err := Open(stateDir, testTask)
		require.ErrorIs(t, err, ErrUnreadable)
		_, err = Create(stateDir, Entry{Task: testTask})
		require.Error(t, err)
		require.NoError(t, removeTaskDir(j.dir))
		require.FileExists(t, filepath.Join(aside, entryFile))
	})
	t.Run("state directory is a link", func(t *testing.T) {
		stateDir := filepath.Join(t.TempDir(), "state")
		require.NoError(t, os.Symlink(t.TempDir(), stateDir))
		require.ErrorContains(t, checkStateDir(stateDir), "not a directory")
	})
	t.Run("state directory lets others in", func(t *testing.T) {
		stateDir := t.TempDir()
		require.NoError(t, os.Chmod(stateDir, 0o777))
		require.NoError(t, checkStateDir(stateDir))
		info, err := os.Stat(stateDir)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())
	})
	t.Run("state directory below what others may write to", func(t *testing.T) {
		above := t.TempDir()
		require.NoError(t, os.Chmod(above, 0o777))
		require.ErrorContains(t, checkStateDir(filepath.Join(above, "a", "b")), "written to by users other than root")
		require.NoError(t, os.Chmod(above, 0o777|fs.ModeSticky))
		require.NoError(t, checkStateDir(filepath.Join(above, "a", "b")))
	})
	t.Run("state directory is another user's", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root can give a directory away")
		}
		stateDir := t.TempDir()
		require.NoError(t, os.Chown(stateDir, 12345, 12345))
		require.ErrorContains(t, checkStateDir(stateDir), "owned by user 12345")
		require.ErrorContains(t, checkStateDir(filepath.Join(stateDir, "docker")), "owned by user 12345")
	})
	require.ErrorContains(t, checkStateDir("relative"), "absolute")
}

// Concurrent fetches each write down their lease; tasks of one alloc come and go beside each other.
func TestJournalConcurrent(t *testing.T) {
	stateDir := newStateDir(t)
	j := newJournal(t, stateDir)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if err := j.AddLease(Lease{ID: secrets.LeaseID(fmt.Sprint(i))}); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			task := Task{AllocID: "shared", Name: fmt.Sprint(i)}
			for range 20 {
				j, err := Create(stateDir, Entry{Task: task})
				if err == nil {
					err = j.Remove()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	j, err := Open(stateDir, testTask)
	require.NoError(t, err)
	require.Len(t, j.Entry().Leases, 20)
}

// A failed write changes nothing, in memory either.
func TestJournalWriteFails(t *testing.T) {
	j := newJournal(t, newStateDir(t))
	require.NoError(t, os.Rename(j.dir, j.dir+"-gone"))
	require.ErrorIs(t, j.AddLease(Lease{ID: "l"}), fs.ErrNotExist)
	require.Empty(t, j.Entry().Leases)
	require.ErrorIs(t, j.SaveToken(FromIdentity, secrets.Token{ID: "a"}), fs.ErrNotExist)
	_, ok := j.Token("a")
	require.False(t, ok)
}

// Whatever is in an entry file, it decodes or is said to be unreadable; what decodes can be written
// and read again.
func FuzzDecodeEntry(f *testing.F) {
	f.Add([]byte(`{"Version":1,"Task":{"AllocID":"a"},"Secrets":{"db":{"Kind":1}},"Driver":{"x":1}}`))
	f.Add([]byte(`{"Version":2}`))
	f.Add([]byte(`{"Version":1e3}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"version":1,"Driver":null,"Leases":[null]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(b)
		if err != nil {
			require.ErrorIs(t, err, ErrUnreadable)
			return
		}
		again, err := json.Marshal(e)
		require.NoError(t, err)
		_, err = decodeEntry(again)
		require.NoError(t, err)
	})
}

// What the first version wrote is read, by the names that it gave (C4: upgrades over running tasks).
func TestJournalReadsTheFirstVersion(t *testing.T) {
	stateDir := newStateDir(t)
	j := newJournal(t, stateDir)
	text := `{"Version":1,"Task":{"Driver":"docker","AllocID":"0c5d6f4e","Name":"web","AllocIndex":2,"Dir":"/alloc/web"},"Step":"acting",
		"Config":{},"TokenSource":"identity","TokenAccessor":"acc","Namespace":"ns","Role":"r","OwnEnv":["A"],
		"Secrets":{"db":{"Kind":2,"LeaseID":"l","TokenAccessor":"acc","Why":"w","Untold":true}},
		"Leases":[{"ID":"l","TokenAccessor":"acc","RevokeAt":"2026-01-02T03:04:05Z"}],"Pending":["db"],"KeepTokens":true}`
	require.NoError(t, os.WriteFile(filepath.Join(j.dir, entryFile), []byte(text), 0o600))
	j, err := Open(stateDir, testTask)
	require.NoError(t, err)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	want := Entry{
		Version: 1, Step: StepApplying, TokenSource: FromIdentity, TokenProvider: "vault", TokenID: "acc", Namespace: "ns", Role: "r", OwnEnv: []string{"A"},
		Task:    Task{Driver: "docker", AllocID: "0c5d6f4e", Name: "web", AllocIndex: 2, Dir: "/alloc/web"},
		Secrets: map[string]Secret{"db": {Provider: "vault", Kind: 2, LeaseID: "l", TokenID: "acc", Why: "w", Undelivered: true}},
		Leases:  []Lease{{Provider: "vault", ID: "l", TokenID: "acc", RevokeAt: at}}, Applying: []string{"db"}, KeepTokens: true,
	}
	require.Equal(t, want, j.Entry())
	require.NoError(t, j.Update(func(e *Entry) { *e = want })) // and an older one reads what is written now
	b, err := os.ReadFile(filepath.Join(j.dir, entryFile))
	require.NoError(t, err)
	for _, name := range []string{`"Untold":true`, `"Pending":["db"]`, `"Step":"acting"`} {
		require.Contains(t, string(b), name)
	}
	pending, err := OpenPending(stateDir)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(stateDir, ".owed"), pending.dir)
}
