package live

import (
	"testing"

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
