package taskdir

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func jwtFor(audience string) string {
	return "h." + base64.RawURLEncoding.EncodeToString([]byte(`{"aud":`+audience+`}`)) + ".s\n"
}

// Identities are found where Nomad writes them, and nothing is followed, waited for or opened that is no file of Nomad's.
func TestIdentities(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside.jwt")
	write := func(rel, content string) {
		must.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, rel)), 0o755))
		must.NoError(t, os.WriteFile(filepath.Join(dir, rel), []byte(content), 0o600))
	}
	must.NoError(t, os.WriteFile(outside, []byte(jwtFor(`"outside"`)), 0o600))
	write("private/token", jwtFor(`["a", "b"]`))
	write("private/vault_token", "hvs.x")
	write("secrets/nomad_vault.jwt", jwtFor(`"vault.io"`))
	write("secrets/token", jwtFor(`"not named as one"`))
	write("secrets/foreign.jwt", jwtFor(`"foreign"`))
	must.NoError(t, os.Chown(filepath.Join(dir, "secrets/foreign.jwt"), 4242, -1))
	write("secrets/text.jwt", "no JWT")
	write("top.jwt", jwtFor(`null`))
	write("local/mine.jwt", jwtFor(`"mine"`))
	write("local/deeper/other.jwt", jwtFor(`"deeper"`))
	must.NoError(t, os.Symlink(outside, filepath.Join(dir, "local/link.jwt")))
	must.NoError(t, os.Link(outside, filepath.Join(dir, "local/second-name.jwt")))
	must.NoError(t, unix.Mkfifo(filepath.Join(dir, "local/fifo.jwt"), 0o600))

	want := []Identity{
		{"private/token", []string{"a", "b"}}, {"secrets/nomad_vault.jwt", []string{"vault.io"}}, {"top.jwt", nil}, {"local/mine.jwt", []string{"mine"}},
	}
	must.Eq(t, want, Identities(dir))
	must.SliceContains(t, names(Identities(dir, 4242)), "secrets/foreign.jwt")

	must.NoError(t, os.RemoveAll(filepath.Join(dir, "local")))
	must.NoError(t, os.Symlink(filepath.Dir(outside), filepath.Join(dir, "local")))
	must.Eq(t, want[:3], Identities(dir), must.Sprint("a directory that is a link"))
	for i := range 2 * maxRead {
		write(fmt.Sprintf("private/token-%02d", i), jwtFor(`"x"`))
	}
	must.Less(t, maxRead+1, len(Identities(dir)))
}

func names(all []Identity) (files []string) {
	for _, id := range all {
		files = append(files, id.File)
	}
	return files
}
