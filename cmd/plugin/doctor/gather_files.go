package doctor

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// tlsFiles are what the TLS options of one server name.
type tlsFiles struct{ caCert, caPath, clientCert, clientKey string }

// gatherOptionFiles reads the files that the options name.
func (d *Driver) gatherOptionFiles() {
	v, n := d.Settings.Vault, d.Settings.Nomad
	d.gatherTLS("", tlsFiles{v.CACert, v.CAPath, v.ClientCert, v.ClientKey})
	d.gatherTLS("nomad.", tlsFiles{n.CACert, n.CAPath, n.ClientCert, n.ClientKey})
	if path := d.Settings.TokenFile; path != "" {
		token := OptionFile{Option: "token_file", Path: path}
		content, err := os.ReadFile(path)
		if err == nil && len(bytes.TrimSpace(content)) == 0 {
			err = fmt.Errorf("%s is empty", path)
		}
		token.Err, token.OthersMay = err, othersMay(path)
		d.Files = append(d.Files, token)
	}
}

// othersMay reports whether a file can be read by everybody.
func othersMay(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&0o004 != 0
}

func (d *Driver) gatherTLS(prefix string, o tlsFiles) {
	if o.caCert != "" {
		d.Files = append(d.Files, readCertificates(prefix+"ca_cert", o.caCert))
	}
	if o.caPath != "" && o.caCert == "" {
		entries, err := os.ReadDir(o.caPath)
		if err == nil && len(entries) == 0 {
			err = fmt.Errorf("no certificate in %s", o.caPath)
		}
		if err != nil {
			d.Files = append(d.Files, OptionFile{Option: prefix + "ca_path", Path: o.caPath, Err: err})
		}
		for _, e := range entries {
			d.Files = append(d.Files, readCertificates(prefix+"ca_path", filepath.Join(o.caPath, e.Name())))
		}
	}
	if o.clientCert == "" {
		return
	}
	cert := readCertificates(prefix+"client_cert", o.clientCert)
	key := OptionFile{Option: prefix + "client_key", Path: o.clientKey, OthersMay: othersMay(o.clientKey)}
	if _, err := os.Stat(o.clientKey); err != nil {
		key.Err = err
	} else if cert.Err == nil {
		if _, err := tls.LoadX509KeyPair(o.clientCert, o.clientKey); err != nil {
			key.Err = fmt.Errorf("%s is not the key of %s", o.clientKey, o.clientCert) // the cause might quote it
		}
	}
	d.Files = append(d.Files, cert, key)
}

// readCertificates looks at a file of certificates; of several the one that ends first counts.
func readCertificates(option, path string) OptionFile {
	c := OptionFile{Option: option, Path: path}
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
