package journal

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/stretchr/testify/require"
)

// Each test here upholds a part of S8: one task cannot use up what all tasks of the node share.

// What was written can be read: at the largest that a task may have.
func TestLimitJournalReadsWhatItWrote(t *testing.T) {
	stateDir := newStateDir(t)
	j := newJournal(t, stateDir)
	values := map[string]secrets.Fields{}
	sum := 0
	for i := range 4 { // each character takes six bytes
		f := secrets.NewFields(map[string]any{"v": strings.Repeat("\x01", secrets.MaxSecretBytes/6-100)})
		values[fmt.Sprint(i)] = f
		sum += f.Size()
	}
	require.NoError(t, secrets.CheckTaskBytes(sum))
	require.Greater(t, sum, secrets.MaxTaskBytes*9/10)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	require.NoError(t, j.Save(values, func(*Entry) {}))
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20), "it is written in pieces")

	again, err := Open(stateDir, testTask)
	require.NoError(t, err)
	got, err := again.Values()
	require.NoError(t, err)
	require.Len(t, got, 4)
	want, _ := values["3"].Lookup("v")
	has, _ := got["3"].Lookup("v")
	require.True(t, want == has)
}

// More than can be read is not written, and what was there stays.
func TestLimitJournalRefusesMore(t *testing.T) {
	j := newJournal(t, newStateDir(t))
	require.NoError(t, j.Save(map[string]secrets.Fields{"a": fieldsOf("kept")}, func(e *Entry) { e.Role = "kept" }))
	large := secrets.NewFields(map[string]any{"v": strings.Repeat("x", MaxFile)})
	err := j.Save(map[string]secrets.Fields{"a": large}, func(e *Entry) { e.Role = "new" })
	require.ErrorContains(t, err, "larger than the 64 MiB that values.json may have")
	require.Equal(t, secrets.Invalid, secrets.KindOf(err))
	err = j.Update(func(e *Entry) { e.Role = strings.Repeat("x", maxEntryFile) })
	require.ErrorContains(t, err, "larger than the 16 MiB that entry.json may have")
	err = j.Save(map[string]secrets.Fields{"a": fieldsOf("new")}, func(e *Entry) { e.Role = strings.Repeat("x", maxEntryFile) })
	require.ErrorContains(t, err, "16 MiB")

	require.Equal(t, "kept", j.Entry().Role)
	values, err := j.Values()
	require.NoError(t, err)
	got, _ := values["a"].Lookup("value")
	require.Equal(t, "kept", got)
	left, err := filepath.Glob(filepath.Join(j.dir, ".*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// A values file as earlier versions wrote it is read, and so is one in another order.
func TestLimitJournalReadsEarlierValues(t *testing.T) {
	j := newJournal(t, newStateDir(t))
	file := struct {
		Version int
		Values  map[string][]byte
	}{1, map[string][]byte{"db": []byte(`{"value":"x"}`), "e": []byte(`{}`)}}
	earlier, err := json.Marshal(file)
	require.NoError(t, err)
	for _, text := range []string{string(earlier), `{"New":{"a":[1]},"Values":{"db":"eyJ2YWx1ZSI6IngifQ=="},"Version":1}`} {
		require.NoError(t, os.WriteFile(filepath.Join(j.dir, valuesFile), []byte(text), 0o600))
		values, err := j.Values()
		require.NoError(t, err)
		got, _ := values["db"].Lookup("value")
		require.Equal(t, "x", got)
	}
	for text, want := range map[string]error{
		`{"Version":2,"Values":{"db":[1]}}`: ErrNewer, `{"Values":{}}`: ErrUnreadable, `{"Version":1,"Values":{"db":"SECRET"}}`: ErrUnreadable,
		`{"Version":1,"Values":{"db":"eyJ2`: ErrUnreadable, ``: ErrUnreadable, `[]`: ErrUnreadable,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(j.dir, valuesFile), []byte(text), 0o600))
		_, err := j.Values()
		require.ErrorIs(t, err, want, text)
		require.NotContains(t, err.Error(), "SECRET")
	}
}
