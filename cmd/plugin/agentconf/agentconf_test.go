package agentconf

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	must.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

const docker = `
data_dir = "/opt/nomad"
client { enabled = true }
plugin "docker" {
  config {
    volumes { enabled = true }
    secrets {
      address = "https://vault:8200"
      jwt { role = "web" }
    }
  }
}`

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	first := write(t, dir, "a.hcl", docker)
	write(t, dir, "b.json", `{"log_file": "/var/log/nomad/", "plugin": {"raw_exec": {"config": {"enabled": true}}}}`)
	write(t, dir, "c.hcl~", "not = a { file")
	write(t, dir, "d.txt", "not = a { file")

	c, err := Load(dir)
	must.NoError(t, err)
	must.Eq(t, []string{first, filepath.Join(dir, "b.json")}, c.Files)
	must.Eq(t, "/opt/nomad/plugins", c.PluginDir)
	must.Eq(t, "/opt/nomad/alloc", c.AllocDir)
	must.Eq(t, "/var/log/nomad/", c.LogFile)
	must.True(t, c.Client)
	p, ok := c.Plugin("docker")
	must.True(t, ok)
	secrets, ok := p.Block("secrets")
	must.True(t, ok)
	must.Eq(t, any("https://vault:8200"), secrets["address"])
	jwt, ok := p.Block("secrets", "jwt")
	must.True(t, ok)
	must.Eq(t, any("web"), jwt["role"])
	raw, ok := c.Plugin("raw_exec")
	must.True(t, ok)
	must.Eq(t, any(true), raw.Config["enabled"])
	_, ok = raw.Block("secrets")
	must.False(t, ok)

	// A later file's block takes an earlier one's place, and its command line the files'.
	later := write(t, t.TempDir(), "later.hcl", `plugin "docker" { config { gc { image = false } } }`)
	c, err = Load(dir, later)
	must.NoError(t, err)
	p, _ = c.Plugin("docker")
	_, ok = p.Block("secrets")
	must.False(t, ok)
	must.Eq(t, []string{first}, p.Replaced)
	c.Override("/data", "")
	must.Eq(t, "/data/plugins", c.PluginDir)
	must.Eq(t, "/data/alloc", c.AllocDir)
	c.Override("", "/plugins")
	must.Eq(t, "/plugins", c.PluginDir)
}

func TestLoadFails(t *testing.T) {
	dir := t.TempDir()
	bad := write(t, dir, "bad.hcl", `plugin "docker" {`)
	_, err := Load(bad)
	must.ErrorContains(t, err, bad)
	_, err = Load(filepath.Join(dir, "none.hcl"))
	must.ErrorIs(t, err, os.ErrNotExist)
	_, err = Load(t.TempDir())
	must.ErrorContains(t, err, "no .hcl or .json file")
}

func TestParseArgs(t *testing.T) {
	a := parseArgs([]string{"-config=/etc/a.hcl", "--config", "/etc/b", "-data-dir", "/data", "-plugin-dir=/p", "-log-level=debug"})
	must.Eq(t, []string{"/etc/a.hcl", "/etc/b"}, a.Paths)
	must.Eq(t, "/data", a.DataDir)
	must.Eq(t, "/p", a.PluginDir)
	must.False(t, a.Dev)
	must.True(t, parseArgs([]string{"-dev"}).Dev)
}
