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

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func TestFieldsBecomeFiles(t *testing.T) {
	in, err := secrets.FieldsFromJSON([]byte(`{
		"user": "bob", "n": 12345678901234567890, "yes": true, "none": null, "list": ["<a>", 1],
		"tls": {"key": "k", "ca": {"cert": "c"}}, "": "nameless", "a/../b": "out", "empty": {}
	}`))
	must.NoError(t, err)
	files, err := Flatten(in)
	must.ErrorContains(t, err, `field "": cannot be the name of a file`)
	must.ErrorContains(t, err, `"a/../b"`)
	got := map[string]string{}
	for _, f := range files {
		got[f.Path] = f.Value.Text()
	}
	must.Eq(t, map[string]string{
		"user": "bob", "n": "12345678901234567890", "yes": "true", "none": "", "list": `["<a>",1]`,
		"tls/key": "k", "tls/ca/cert": "c",
	}, got)
	must.StrNotContains(t, err.Error(), "nameless")
}

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
