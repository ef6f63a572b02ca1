package doctor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/agentconf"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/nomadvar"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// The files in plugin_dir, as Nomad finds them. The test's own program has this module in it.
func TestGatherFiles(t *testing.T) {
	dir := t.TempDir()
	must.NoError(t, os.Chmod(dir, 0o755))
	program, err := os.Executable()
	must.NoError(t, err)
	content, err := os.ReadFile(program)
	must.NoError(t, err)
	for name, mode := range map[string]os.FileMode{"docker": 0o755, "raw_exec": 0o644, "writable": 0o757} {
		must.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
		must.NoError(t, os.Chmod(filepath.Join(dir, name), mode))
	}
	must.NoError(t, os.WriteFile(filepath.Join(dir, "raw_exec-secrets"), append(content, "another"...), 0o600))
	must.NoError(t, os.Chmod(filepath.Join(dir, "raw_exec-secrets"), 0o755))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "java"), []byte("#!/bin/sh\n"), 0o755))
	must.NoError(t, os.Symlink("/nowhere", filepath.Join(dir, "docker-secrets")))
	must.NoError(t, os.Mkdir(filepath.Join(dir, "directory"), 0o755))
	n := Node{Config: agentconf.Config{PluginDir: dir}}
	n.gatherFiles()
	must.NoError(t, n.PluginDirErr)
	is := map[string]File{}
	for _, f := range n.Files {
		is[f.Name] = f
	}
	must.MapNotContainsKey(t, is, "directory")
	must.Eq(t, File{Name: "docker", Ours: true, Executable: true}, is["docker"])
	must.Eq(t, File{Name: "raw_exec", Ours: true}, is["raw_exec"])
	must.Eq(t, File{Name: "raw_exec-secrets", Ours: true, Differs: true, Executable: true}, is["raw_exec-secrets"])
	must.False(t, is["java"].Ours)
	must.StrContains(t, is["writable"].Unsafe, "mode 0757")
	must.ErrorIs(t, is["docker-secrets"].Err, os.ErrNotExist)
	must.True(t, is["docker-secrets"].Ours)

	must.NoError(t, os.Chmod(dir, 0o777)) //nolint:gosec // what is looked for
	n = Node{Config: agentconf.Config{PluginDir: dir}}
	n.gatherFiles()
	must.StrContains(t, n.Files[0].Unsafe, dir)
	n = Node{Config: agentconf.Config{PluginDir: filepath.Join(dir, "none")}}
	n.gatherFiles()
	must.ErrorIs(t, n.PluginDirErr, os.ErrNotExist)
}

// certificate writes one, and its key.
func certificate(t *testing.T, path string, from, until time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must.NoError(t, err)
	of := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	must.NoError(t, err)
	bare, err := x509.MarshalPKCS8PrivateKey(key)
	must.NoError(t, err)
	must.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must.NoError(t, os.WriteFile(path+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: bare}), 0o600))
}

func TestGatherCertificates(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	from, until := time.Now().Add(-time.Hour).Truncate(time.Second), time.Now().Add(time.Hour).Truncate(time.Second)
	certificate(t, path("a"), from, until)
	certificate(t, path("b"), from, until.Add(time.Hour))
	must.NoError(t, os.WriteFile(path("none"), []byte("no certificate"), 0o600))
	gather := func(o vault.Config) []OptionFile {
		d := Driver{Settings: driver.Settings{Vault: o}}
		d.gatherOptionFiles()
		return d.Files
	}
	ca := gather(vault.Config{CACert: path("a")})[0]
	must.NoError(t, ca.Err)
	must.True(t, until.Equal(ca.NotAfter))
	both := gather(vault.Config{ClientCert: path("a"), ClientKey: path("a.key")})
	must.NoError(t, both[1].Err)
	must.False(t, both[1].OthersMay)
	must.NoError(t, os.Chmod(path("a.key"), 0o644))
	must.True(t, gather(vault.Config{ClientCert: path("a"), ClientKey: path("a.key")})[1].OthersMay)
	must.ErrorContains(t, gather(vault.Config{ClientCert: path("a"), ClientKey: path("b.key")})[1].Err, "is not the key of")
	must.ErrorContains(t, gather(vault.Config{CACert: path("none")})[0].Err, "no certificate in")
	must.ErrorIs(t, gather(vault.Config{CACert: path("missing")})[0].Err, os.ErrNotExist)
	must.ErrorIs(t, gather(vault.Config{CAPath: path("missing")})[0].Err, os.ErrNotExist)
	must.SliceEmpty(t, gather(vault.Config{}))

	d := Driver{Settings: driver.Settings{Nomad: nomadvar.Config{CACert: path("none"), ClientCert: path("a"), ClientKey: path("b.key")}, TokenFile: path("token")}}
	of := func() map[string]OptionFile {
		d.Files = nil
		d.gatherOptionFiles()
		is := map[string]OptionFile{}
		for _, f := range d.Files {
			is[f.Option] = f
		}
		return is
	}
	must.ErrorContains(t, of()["nomad.ca_cert"].Err, "no certificate in")
	must.NoError(t, of()["nomad.client_cert"].Err)
	must.ErrorContains(t, of()["nomad.client_key"].Err, "is not the key of")
	must.ErrorIs(t, of()["token_file"].Err, os.ErrNotExist)
	must.NoError(t, os.WriteFile(path("token"), []byte(" \n"), 0o600))
	must.ErrorContains(t, of()["token_file"].Err, "is empty")
	must.NoError(t, os.WriteFile(path("token"), []byte("t\n"), 0o600))
	must.Eq(t, OptionFile{Option: "token_file", Path: path("token")}, of()["token_file"])
	must.NoError(t, os.Chmod(path("token"), 0o644)) //nolint:gosec // what is looked for
	must.True(t, of()["token_file"].OthersMay)
}

func TestGatherStateDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	must.True(t, stateDirAt(dir).Missing)
	must.NoError(t, os.MkdirAll(filepath.Join(dir, "journal"), 0o700))
	must.NoError(t, os.MkdirAll(filepath.Join(dir, "shared"), 0o700))
	s := stateDirAt(dir)
	must.False(t, s.Missing)
	must.False(t, s.Mounted)
	for _, name := range []string{"journal", "shared"} {
		on := filepath.Join(dir, name)
		must.NoError(t, unix.Mount("tmpfs", on, "tmpfs", 0, "size=64k"))
		t.Cleanup(func() { must.NoError(t, unix.Unmount(on, 0)) })
	}
	must.True(t, stateDirAt(dir).Mounted)
	must.NoError(t, os.Chmod(dir, 0o777)) //nolint:gosec // what is looked for
	must.ErrorContains(t, stateDirAt(dir).Unsafe, "can be written to")
	must.NoError(t, os.Chmod(dir, 0o700)) //nolint:gosec // as it was

	on := filepath.Join(dir, "journal")
	must.NoError(t, unix.Mount("proc", on, "proc", 0, ""))
	t.Cleanup(func() { must.NoError(t, unix.Unmount(on, 0)) })
	must.Eq(t, map[string]string{"journal": "type 0x9fa0"}, stateDirAt(dir).OnDisk)
}

// Nothing is asked of what is not configured.
func TestGatherWithoutConfiguration(t *testing.T) {
	n := Gather(t.Context(), Options{Paths: []string{filepath.Join(t.TempDir(), "none.hcl")}})
	must.ErrorIs(t, n.ConfigErr, os.ErrNotExist)
	must.Eq(t, Error, Worst(Check(n)))
}
