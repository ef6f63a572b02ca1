package nomadvar

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// idleConns bounds the connections that are kept open without use.
const idleConns = 8

// agent is the HTTP API of an agent, at the operator's address.
type agent struct {
	cfg Config

	mu     sync.Mutex
	client *api.Client // nil until it is needed; made anew when a TLS file changes
	http   *http.Client
	stamp  string // of the TLS files that client was made from
}

// CheckAddress says what is wrong with an agent's address.
func CheckAddress(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return secrets.Errorf(secrets.Invalid, "address: not a URL, such as \"https://127.0.0.1:4646\"") // its text may hold a password
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return secrets.Errorf(secrets.Invalid, "address: %q is not a URL that begins with https:// or http://", u.Redacted())
	}
	return nil
}

// api gives the client. A certificate may come after the agent, and be rotated under it: an error about one is an outage.
func (a *agent) api() (*api.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	stamp, err := a.stampFiles()
	if err != nil {
		return nil, secrets.Errorf(secrets.Outage, "secrets { nomad { } }: %w", err)
	}
	if a.client != nil && stamp == a.stamp {
		return a.client, nil
	}
	c := a.cfg
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: idleConns, IdleConnTimeout: time.Minute,
	}
	httpClient := newHTTP(transport)
	if err := api.ConfigureTLS(httpClient, &api.TLSConfig{
		CACert: c.CACert, CAPath: c.CAPath, ClientCert: c.ClientCert, ClientKey: c.ClientKey, TLSServerName: c.TLSServerName, Insecure: c.TLSSkipVerify,
	}); err != nil {
		return nil, secrets.Errorf(secrets.Outage, "secrets { nomad { } }: %w", err)
	}
	client, err := api.NewClient(&api.Config{Address: c.Address, HttpClient: httpClient})
	if err != nil {
		return nil, secrets.Errorf(secrets.Invalid, "secrets { nomad { } }: %w", err)
	}
	a.closeIdle()
	a.client, a.http, a.stamp = client, httpClient, stamp
	return client, nil
}

// stampFiles changes when any of the TLS files does.
func (a *agent) stampFiles() (stamp string, err error) {
	for _, path := range []string{a.cfg.CACert, a.cfg.CAPath, a.cfg.ClientCert, a.cfg.ClientKey} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		stamp += fmt.Sprintf("%d:%d;", info.Size(), info.ModTime().UnixNano())
	}
	return stamp, nil
}

func (a *agent) closeIdle() {
	if a.http != nil {
		a.http.CloseIdleConnections()
	}
}

// newHTTP is a client that follows no redirect: the token is for whom it was sent to.
func newHTTP(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
