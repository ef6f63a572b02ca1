package vault

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// tlsFiles are the operator's certificates on disk. They may come after the agent, and be rotated
// under it: so they are looked at before each request, and every error about them is
// an outage, which ends when the file is there.
type tlsFiles struct{ caCert, caPath, cert, key string }

// stamp changes when any of the files does.
func (f tlsFiles) stamp() (string, error) {
	var b strings.Builder
	for _, of := range []struct{ option, path string }{{"ca_cert", f.caCert}, {"client_cert", f.cert}, {"client_key", f.key}} {
		if of.path == "" {
			continue
		}
		info, err := os.Stat(of.path)
		if err != nil {
			return "", secrets.Errorf(secrets.Outage, "%s: %w", of.option, err)
		}
		stampFile(&b, info)
	}
	if f.caCert == "" && f.caPath != "" {
		names, err := f.caNames()
		if err != nil {
			return "", err
		}
		for _, name := range names {
			info, err := os.Stat(name)
			if err != nil {
				return "", secrets.Errorf(secrets.Outage, "ca_path: %w", err)
			}
			stampFile(&b, info)
		}
	}
	return b.String(), nil
}

// stampFile writes what identifies a file's content without reading it. The inode is of the file
// that a symlink leads to, so a swapped link counts as a change.
func stampFile(b *strings.Builder, info os.FileInfo) {
	var inode, device uint64
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode, device = st.Ino, st.Dev
	}
	fmt.Fprintf(b, "%s:%d:%d:%d:%d;", info.Name(), device, inode, info.Size(), info.ModTime().UnixNano())
}

// caNames are the files in ca_path, sorted.
func (f tlsFiles) caNames() ([]string, error) {
	entries, err := os.ReadDir(f.caPath)
	if err != nil {
		return nil, secrets.Errorf(secrets.Outage, "ca_path: %w", err)
	}
	var names []string
	for _, e := range entries {
		name := filepath.Join(f.caPath, e.Name())
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, secrets.Errorf(secrets.Outage, "ca_path: no certificate in %s", f.caPath)
	}
	return names, nil
}

// load reads the files. ca_cert takes precedence over ca_path, as in Vault's own client; without
// either the system's certificates are trusted.
func (f tlsFiles) load() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	var names []string
	option := "ca_cert"
	switch {
	case f.caCert != "":
		names = []string{f.caCert}
	case f.caPath != "":
		option = "ca_path"
		var err error
		if names, err = f.caNames(); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		pem, err := os.ReadFile(name)
		if err != nil {
			return nil, secrets.Errorf(secrets.Outage, "%s: %w", option, err)
		}
		if config.RootCAs == nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, secrets.Errorf(secrets.Outage, "%s: no certificate in %s", option, name)
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil { // half-way through a rotation the two do not match
			return nil, secrets.Errorf(secrets.Outage, "client_cert %s, client_key %s: %w", f.cert, f.key, err)
		}
		// Given whatever CAs the server says it accepts: Vault's cert auth names none.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return config, nil
}
