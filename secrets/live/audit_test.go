package live

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestTheAuditLogIsBoundedAndRootsAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "audit.log")
	a, err := OpenAudit(path)
	must.NoError(t, err)
	a.max = 1000
	at := time.Unix(1700000000, 0).UTC()
	for range 50 {
		must.NoError(t, a.Write(AuditLine{Time: at, Volume: "secret/app", Field: "a\nb", UID: 1, PID: 2, Result: "ok"}))
	}
	must.NoError(t, a.Close())
	lines := 0
	for _, p := range []string{path, path + ".1"} {
		info, err := os.Stat(p)
		must.NoError(t, err)
		must.Eq(t, 0o600, info.Mode().Perm())
		must.Less(t, 1001, int(info.Size()))
		b, err := os.ReadFile(p)
		must.NoError(t, err)
		for s := bufio.NewScanner(strings.NewReader(string(b))); s.Scan(); lines++ {
			var l AuditLine
			must.NoError(t, json.Unmarshal(s.Bytes(), &l))
			must.Eq(t, AuditLine{Time: at, Volume: "secret/app", Field: "a\nb", UID: 1, PID: 2, Result: "ok"}, l)
		}
	}
	must.Between(t, 6, lines, 20)
	must.Error(t, a.Write(AuditLine{}))
}

// A log that cannot be written for a while goes on after it, says how many lines it lost, and does not fill another log with errors.
func TestTheAuditLogGoesOnAfterATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	a, err := OpenAudit(path)
	must.NoError(t, err)
	defer a.Close()
	a.max = 500
	line := AuditLine{Field: strings.Repeat("f", 300), Result: "ok"}
	must.NoError(t, a.Write(line))

	must.NoError(t, os.Mkdir(path+".1", 0o700)) // it cannot be moved there
	must.Error(t, a.Write(line))
	must.NoError(t, a.Write(line, line))
	must.NoError(t, os.Remove(path+".1"))
	must.NoError(t, a.Write(AuditLine{Result: "ok"}))
	b, err := os.ReadFile(path)
	must.NoError(t, err)
	must.StrContains(t, string(b), `"result":"lost","count":3}`)

	must.NoError(t, os.Remove(path)) // somebody moves it away
	must.NoError(t, a.Write(line))
	must.NoError(t, a.Write(line))
	b, err = os.ReadFile(path)
	must.NoError(t, err)
	must.Eq(t, 1, strings.Count(string(b), "\n"))

	// It cannot be opened again, at first.
	must.NoError(t, a.file.Close())
	a.file = nil
	must.NoError(t, os.Remove(path))
	must.NoError(t, os.Mkdir(path, 0o700))
	must.Error(t, a.Write(line))
	must.NoError(t, os.Remove(path))
	must.NoError(t, a.Write(line))

	// What was written in part, on a disk that was full, spoils no other line.
	a.max, a.torn = 5000, true
	_, err = a.file.WriteString(`{"time":"20`)
	must.NoError(t, err)
	must.NoError(t, a.Write(AuditLine{Result: "ok"}))
	b, err = os.ReadFile(path)
	must.NoError(t, err)
	must.StrContains(t, string(b), "{\"time\":\"20\n{")
	must.False(t, a.torn)
}
