package harness

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Pebble is an ACME authority with its challenge test server, which answers all DNS queries: any name is
// 127.0.0.1. It rejects good nonces and delays validations at random. Before it stands a proxy (pebbleproxy.go),
// which sees all requests.
type Pebble struct {
	Directory string // of the ACME server, at the proxy
	CACert    string // a file: what its TLS certificate is trusted by
	DNS       string // address of the DNS server
	DNSAPI    string // an endpoint for lego's httpreq: sets the records
	HTTPPort  int    // where http-01 is validated
	TLSPort   int    // where tls-alpn-01 is

	*pebbleProxy
	tls         *tls.Config
	listen      string // of the ACME server, a URL
	dir         string
	management  string // of the ACME server
	challenges  string // management of the challenge server
	client      *http.Client
	server      *process
	challServer *process
	dnsAPI      *http.Server
}

// PebbleOptions are a Pebble's. The zero value has the profile "default" of 90 days.
type PebbleOptions struct {
	Profiles  map[string]time.Duration // lifetimes of certificates by profile
	Blocklist []string                 // domains that are refused
	Bindings  map[string]string        // external accounts, one of which is required if there are any: HMAC keys by id
}

// NewPebble starts an authority. Stop ends it.
func (c *Cluster) NewPebble(ctx context.Context, name string, opts PebbleOptions) (p *Pebble, err error) {
	dir, err := c.dir.mkdir(name)
	if err != nil {
		return nil, err
	}
	p = &Pebble{dir: dir}
	defer func() {
		if err != nil {
			p.Stop()
		}
	}()
	if p.tls, err = p.makeTLS(); err != nil {
		return nil, err
	}
	var port [6]int
	for i := range port {
		if port[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	address := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", port[i]) }
	p.DNS, p.HTTPPort, p.TLSPort = address(0), port[1], port[2]
	p.challenges, p.management = "http://"+address(3), "https://"+address(4)
	config, err := p.writeConfig(address(5), address(4), opts)
	if err != nil {
		return nil, err
	}
	bin, err := pinnedTool("pebble-challtestsrv")
	if err != nil {
		return nil, err
	}
	p.challServer, err = startProcess("pebble-challtestsrv", filepath.Join(dir, "challtestsrv.log"), nil, bin,
		"-dnsserver", p.DNS, "-management", address(3), "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "")
	if err != nil {
		return nil, err
	}
	if bin, err = pinnedTool("pebble"); err != nil {
		return nil, err
	}
	env := []string{"PEBBLE_WFE_NONCEREJECT=15", "PEBBLE_VA_SLEEPTIME=3", "PEBBLE_VA_NOSLEEP=", "PEBBLE_VA_ALWAYS_VALID="}
	p.server, err = startProcess("pebble", filepath.Join(dir, "pebble.log"), env, bin, "-config", config, "-dnsserver", p.DNS)
	if err != nil {
		return nil, err
	}
	p.listen = "https://" + address(5)
	if p.pebbleProxy, err = newPebbleProxy(p.tls, p.listen); err != nil {
		return nil, err
	}
	p.Directory = p.pebbleProxy.URL + "/dir"
	if err := p.serveDNSAPI(); err != nil {
		return nil, err
	}
	return p, Until(ctx, "pebble to answer", func() error {
		if err := p.server.alive(); err != nil {
			return err
		}
		if err := p.challServer.alive(); err != nil {
			return err
		}
		_, err := p.get(ctx, p.management+"/roots/0")
		if err == nil {
			_, err = p.get(ctx, p.Directory)
		}
		return err
	})
}

// Another is the same authority at another address, with a proxy of its own. Closing it leaves the authority.
func (p *Pebble) Another() (*Pebble, error) {
	other := *p
	proxy, err := newPebbleProxy(p.tls, p.listen)
	if err != nil {
		return nil, err
	}
	other.pebbleProxy, other.Directory = proxy, proxy.URL+"/dir"
	return &other, nil
}

// pinnedTool is a program that e2e/tools pins, in bin/.
func pinnedTool(name string) (string, error) {
	root, err := RepoRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin", name)
	if !isExecutable(path) {
		return "", fmt.Errorf("no %s: run `make bin/%s`", path, name)
	}
	return path, nil
}

// writeConfig writes the server's configuration.
func (p *Pebble) writeConfig(listen, management string, opts PebbleOptions) (string, error) {
	if opts.Profiles == nil {
		opts.Profiles = map[string]time.Duration{"default": 90 * 24 * time.Hour}
	}
	profiles := map[string]any{}
	for name, life := range opts.Profiles {
		profiles[name] = map[string]any{"description": name, "validityPeriod": int(life.Seconds())}
	}
	content, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": listen, "managementListenAddress": management,
		"certificate": filepath.Join(p.dir, "cert.pem"), "privateKey": filepath.Join(p.dir, "key.pem"),
		"httpPort": p.HTTPPort, "tlsPort": p.TLSPort, "domainBlocklist": opts.Blocklist,
		"externalAccountBindingRequired": len(opts.Bindings) > 0, "externalAccountMACKeys": opts.Bindings,
		"retryAfter": map[string]int{"authz": 1, "order": 1}, "keyAlgorithm": "ecdsa", "profiles": profiles,
	}})
	if err != nil {
		return "", err
	}
	file := filepath.Join(p.dir, "config.json")
	return file, os.WriteFile(file, content, 0o600)
}

// makeTLS makes the certificate of the server and of the proxy.
func (p *Pebble) makeTLS() (*tls.Config, error) {
	certPEM, keyPEM, err := selfSigned("127.0.0.1")
	if err != nil {
		return nil, err
	}
	p.CACert = filepath.Join(p.dir, "cert.pem")
	if err := os.WriteFile(p.CACert, certPEM, 0o644); err != nil {
		return nil, err
	}
	if err := os.Chmod(p.dir, 0o755); err != nil { // a task of another user reads it
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(p.dir, "key.pem"), keyPEM, 0o600); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	p.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool}, nil
}

// serveDNSAPI translates what lego's httpreq provider sends to what the challenge test server takes.
func (p *Pebble) serveDNSAPI() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	p.DNSAPI = "http://" + l.Addr().String()
	p.dnsAPI = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var record struct{ FQDN, Value string }
		err := json.NewDecoder(r.Body).Decode(&record)
		if err == nil {
			verb := map[string]string{"/present": "set-txt", "/cleanup": "clear-txt"}[r.URL.Path]
			_, err = p.post(r.Context(), p.challenges+"/"+verb, map[string]string{"host": record.FQDN, "value": record.Value})
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})}
	go func() { _ = p.dnsAPI.Serve(l) }()
	return nil
}

// Roots is what certificates of the authority are trusted by.
func (p *Pebble) Roots(ctx context.Context) (*x509.CertPool, error) {
	content, err := p.get(ctx, p.management+"/roots/0")
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("pebble's root is %q", content)
	}
	return pool, nil
}

// SetRenewalInfo has the authority advise to renew a certificate, given in PEM, in this window.
func (p *Pebble) SetRenewalInfo(ctx context.Context, certificate string, start, end time.Time) error {
	answer, err := json.Marshal(map[string]any{"suggestedWindow": map[string]time.Time{"start": start.UTC(), "end": end.UTC()}})
	if err != nil {
		return err
	}
	_, err = p.post(ctx, p.management+"/set-renewal-info/", map[string]string{"certificate": certificate, "ariResponse": string(answer)})
	return err
}

// Log is what the server has logged.
func (p *Pebble) Log() (string, error) {
	content, err := os.ReadFile(filepath.Join(p.dir, "pebble.log"))
	return string(content), err
}

// Stop ends both servers and the proxy.
func (p *Pebble) Stop() {
	if p.pebbleProxy != nil {
		p.pebbleProxy.Close()
	}
	if p.dnsAPI != nil {
		p.dnsAPI.Close()
	}
	p.server.kill()
	p.challServer.kill()
	if p.client != nil {
		p.client.CloseIdleConnections()
	}
}

func (p *Pebble) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return p.do(req)
}

func (p *Pebble) post(ctx context.Context, url string, body any) ([]byte, error) {
	content, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	return p.do(req)
}

func (p *Pebble) do(req *http.Request) ([]byte, error) {
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s: %s: %s", req.URL, resp.Status, strings.TrimSpace(string(content)))
	}
	return content, err
}
