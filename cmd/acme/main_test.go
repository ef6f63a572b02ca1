package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/dnsprovider"
)

// -providers lists each provider of lego's, once: as built in, or as not.
func TestProviders(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.Equal(t, 0, run(t.Context(), []string{"-providers"}, &stdout, &stderr), "%s", &stderr)
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	require.Len(t, lines, 2)
	builtIn, found := strings.CutPrefix(lines[0], "built in: ")
	require.True(t, found)
	notBuiltIn, found := strings.CutPrefix(lines[1], "not built in: ")
	require.True(t, found)
	require.Equal(t, dnsprovider.Names(), strings.Fields(builtIn))
	require.Equal(t, dnsprovider.LeftOut(), strings.Fields(notBuiltIn))
	require.Subset(t, strings.Fields(builtIn), []string{"exec", "httpreq", "rfc2136"})
}

// What is wrong with the command line or the configuration has the exit status 2, and comes before anything is asked of
// a server.
func TestUsage(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	t.Setenv("NOMAD_SECRETS_DIR", "")
	t.Setenv("HOME", t.TempDir())
	file := filepath.Join(t.TempDir(), "acme.hcl")
	require.NoError(t, os.WriteFile(file, []byte("account {\n  directory = \"http://ca.example/dir\"\n  accept_terms = true\n}\nstorage {\n  path = \"secret/acme\"\n}\n"), 0o600))
	good := filepath.Join(t.TempDir(), "good.hcl")
	require.NoError(t, os.WriteFile(good, []byte(`
account {
  directory    = "https://ca.example/dir"
  accept_terms = true
}
storage {
  path = "secret/acme"
}
challenge "http-01" "web" {
  address = "127.0.0.1:0"
}
certificate "web" {
  domains   = ["example.com"]
  challenge = "web"
  path      = "secret/tls/web"
}
`), 0o600))
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"unknown flag":     {[]string{"-chek"}, "flag provided but not defined: -chek"},
		"an argument":      {[]string{file}, "usage: nomad-acme-issuer [-check | -once] -config FILE"},
		"two modes":        {[]string{"-check", "-once"}, "usage: nomad-acme-issuer [-check | -once] -config FILE"},
		"no configuration": {[]string{"-config", file + ".not"}, "acme.hcl.not: no such file or directory"},
		"mistakes":         {[]string{"-config", file}, file + ":2,3: directory is not an https URL"},
		"no token":         {[]string{"-config", good, "-once"}, "no Vault token: give the job an identity block"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.Equal(t, exitUsage, run(t.Context(), test.args, &stdout, &stderr))
			require.Contains(t, stderr.String(), test.want)
			require.Empty(t, stdout.String())
		})
	}
}
