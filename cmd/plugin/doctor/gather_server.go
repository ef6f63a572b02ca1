package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// gatherServers asks each secrets server once for each role and method that is used of it.
func (n *Node) gatherServers(ctx context.Context, token secrets.Value) {
	for _, d := range n.Drivers {
		if d.ConfigErr != nil || d.Settings.Vault.Address == "" {
			continue
		}
		s := Server{Config: d.Settings.Vault, Mount: d.Settings.JWTMount, Role: d.Settings.JWTRole}
		s.Config.Timeout = askTimeout
		same := func(o Server) bool { return o.Config == s.Config && o.Mount == s.Mount && o.Role == s.Role }
		if slices.ContainsFunc(n.Servers, same) {
			continue
		}
		s.ask(ctx, token)
		n.Servers = append(n.Servers, s)
	}
}

func (s *Server) ask(ctx context.Context, token secrets.Value) {
	client, err := vault.New(s.Config)
	if err != nil {
		s.Err = err
		return
	}
	defer client.Close()
	if s.Health, s.Err = client.Health(ctx); s.Err != nil || s.Health.Sealed || !s.Health.Initialized {
		return
	}
	s.Login, s.Said = client.ProbeLogin(ctx, s.Mount, s.Role)
	if token.IsEmpty() {
		return
	}
	role, err := client.ReadJWTRole(ctx, s.Mount, s.Role, token)
	if err != nil {
		s.TokenErr = err
		return
	}
	s.JWTRole = &role
}

// gatherCertificates reads the files that the TLS options name.
func (d *Driver) gatherCertificates() {
	o := d.Settings.Vault
	if o.CACert != "" {
		d.Files = append(d.Files, readCertificates("ca_cert", o.CACert))
	}
	if o.CAPath != "" && o.CACert == "" {
		entries, err := os.ReadDir(o.CAPath)
		if err == nil && len(entries) == 0 {
			err = fmt.Errorf("no certificate in %s", o.CAPath)
		}
		if err != nil {
			d.Files = append(d.Files, CertFile{Option: "ca_path", Path: o.CAPath, Err: err})
		}
		for _, e := range entries {
			d.Files = append(d.Files, readCertificates("ca_path", filepath.Join(o.CAPath, e.Name())))
		}
	}
	if o.ClientCert == "" {
		return
	}
	cert := readCertificates("client_cert", o.ClientCert)
	key := CertFile{Option: "client_key", Path: o.ClientKey}
	info, err := os.Stat(o.ClientKey)
	switch {
	case err != nil:
		key.Err = err
	case cert.Err == nil:
		if _, err := tls.LoadX509KeyPair(o.ClientCert, o.ClientKey); err != nil {
			key.Err = fmt.Errorf("%s is not the key of %s", o.ClientKey, o.ClientCert) // the cause might quote it
		}
	}
	key.OthersMay = err == nil && info.Mode()&0o004 != 0
	d.Files = append(d.Files, cert, key)
}

// readCertificates looks at a file of certificates; of several the one that ends first counts.
func readCertificates(option, path string) CertFile {
	c := CertFile{Option: option, Path: path}
	content, err := os.ReadFile(path)
	if err != nil {
		c.Err = err
		return c
	}
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			c.Err = errors.Join(c.Err, fmt.Errorf("%s: %w", path, err))
			continue
		}
		if c.NotAfter.IsZero() || cert.NotAfter.Before(c.NotAfter) {
			c.NotBefore, c.NotAfter = cert.NotBefore, cert.NotAfter
		}
	}
	if c.NotAfter.IsZero() && c.Err == nil {
		c.Err = fmt.Errorf("no certificate in %s", path)
	}
	return c
}
