package vault

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const (
	defaultVaultTimeout = 30 * time.Second
	// makeTimeout bounds a request that may make a credential, as long as the server's own tools wait: what is not
	// waited for is made all the same, and asked for again.
	makeTimeout        = 60 * time.Second
	defaultMountMaxAge = 60 * time.Second

	// maxAnswer bounds what is read of one answer: the secret (S8), and what the server says around it.
	maxAnswer = secrets.MaxSecretBytes + 64<<10
	// maxErrorAnswer bounds what of an error answer is looked at.
	maxErrorAnswer = 64 << 10
	// smallAnswer is what any number of requests read at once; of larger answers, largeAtOnce are in memory
	// as text.
	smallAnswer = 256 << 10
	largeAtOnce = 2

	clockSlack = 5 * time.Second
)

// Config is what the operator says of the secrets server. No job can set any of it.
type Config struct {
	Address       string // empty: $VAULT_ADDR of the plugin's environment
	Namespace     string // for requests that name none
	CACert        string // this and the next three are files, followed when they change on disk
	CAPath        string
	ClientCert    string
	ClientKey     string
	TLSServerName string
	TLSSkipVerify bool

	Timeout     time.Duration // of one request that makes nothing; 0: 30s
	MountMaxAge time.Duration // how long a mount's type is believed; 0: 60s
}

// Client is the provider that speaks the Vault API. Make it with New. It has no goroutines of
// its own; Close gives its idle connections back.
type Client struct {
	cfg    Config
	files  tlsFiles
	mounts mountCache
	large  chan struct{} // a place for each large answer that is being read

	mu        sync.Mutex
	client    *api.Client // nil until the first request; made anew when a TLS file changes
	transport *http.Transport
	stamp     string // of the TLS files that client was made from
}

// New checks cfg. What may heal by itself, a certificate that is not there yet, and what a
// task without secrets need not care about, an empty address, is an error of the requests instead:
// neither may stop an agent.
func New(cfg Config) (*Client, error) {
	if cfg.Address == "" {
		cfg.Address = os.Getenv(api.EnvVaultAddress)
	}
	if cfg.Address != "" {
		u, err := url.Parse(cfg.Address)
		if err != nil {
			return nil, secrets.Errorf(secrets.Invalid, "address: not a URL") // its text may hold a password
		}
		if u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "unix" {
			return nil, secrets.Errorf(secrets.Invalid, "address: %q is not a URL that begins with https://, http:// or unix://", u.Redacted())
		}
	}
	if (cfg.ClientCert == "") != (cfg.ClientKey == "") {
		return nil, secrets.Errorf(secrets.Invalid, "client_cert and client_key: give both, or neither")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultVaultTimeout
	}
	if cfg.MountMaxAge <= 0 {
		cfg.MountMaxAge = defaultMountMaxAge
	}
	return &Client{
		cfg:    cfg,
		files:  tlsFiles{caCert: cfg.CACert, caPath: cfg.CAPath, cert: cfg.ClientCert, key: cfg.ClientKey},
		mounts: newMountCache(cfg.MountMaxAge),
		large:  make(chan struct{}, largeAtOnce),
	}, nil
}

// Address is the server's, as configured; empty: none is.
func (v *Client) Address() string { return strings.TrimRight(v.cfg.Address, "/") }

// Close gives back the idle connections. Requests under way go on.
func (v *Client) Close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.transport != nil {
		v.transport.CloseIdleConnections()
	}
}

// api gives the client, made anew if a TLS file has changed since: a rotated certificate is used
// from the next request on.
func (v *Client) api() (*api.Client, error) {
	if v.cfg.Address == "" {
		return nil, secrets.Errorf(secrets.Invalid, "no address of a secrets server: set `address` in the agent's configuration, plugin \"…\" { config { secrets { address = \"https://…:8200\" } } }, or VAULT_ADDR in the agent's environment")
	}
	v.mu.Lock()
	defer v.mu.Unlock()

	// The stamp is taken before the files are read: a change in between is seen at the next request.
	stamp, err := v.files.stamp()
	if err != nil {
		return nil, err
	}
	if v.client != nil && stamp == v.stamp {
		return v.client, nil
	}
	tlsConfig, err := v.files.load()
	if err != nil {
		return nil, err
	}
	tlsConfig.ServerName = v.cfg.TLSServerName
	tlsConfig.InsecureSkipVerify = v.cfg.TLSSkipVerify

	transport := newTransport(tlsConfig)
	client, err := newClient(v.cfg.Address, transport)
	if err != nil {
		return nil, err
	}
	if v.transport != nil {
		v.transport.CloseIdleConnections()
	}
	v.client, v.transport, v.stamp = client, transport, stamp
	return client, nil
}

// idleConns bounds the connections that are kept open without use. Of a server whose connections break (it was restarted
// behind a balancer, say) net/http sends a GET again on each that is idle, before it opens a new one: those repeats count for
// no request rate. HTTP/2, which is used wherever TLS is, needs one.
const idleConns = 4

func newTransport(tlsConfig *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          idleConns,
		MaxIdleConnsPerHost:   idleConns,
		IdleConnTimeout:       90 * time.Second,
	}
}

// newClient makes a client with no token, no namespace, and nothing else from the environment: the
// agent's own VAULT_TOKEN, VAULT_NAMESPACE, VAULT_HEADERS or VAULT_WRAP_TTL must not decide what a
// task reads, nor as whom.
func newClient(address string, transport *http.Transport) (*api.Client, error) {
	client, err := api.NewClient(&api.Config{
		Address: address,
		HttpClient: &http.Client{
			Transport: samePath{transport},
			// The API client follows one redirect by itself, with the token; net/http must not.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		MaxRetries: 0, // each call is one attempt: waiting is the caller's
	})
	if err != nil {
		// The address was checked: what is left is a VAULT_… variable that NewClient cannot
		// help reading, such as a VAULT_CACERT that is not there.
		return nil, secrets.Errorf(secrets.Outage, "make a Vault client (is a VAULT_… variable in the agent's environment wrong?): %w", err)
	}
	client.ClearToken()
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	return client, nil
}

// samePath follows no redirect to another path: the token is to read what was asked for, whoever is to give it.
type samePath struct{ next http.RoundTripper }

// firstPath is in a request's context: the path that was asked for.
type firstPath struct{}

func (t samePath) RoundTrip(req *http.Request) (*http.Response, error) {
	if first, ok := req.Context().Value(firstPath{}).(*string); ok {
		switch now := req.URL.EscapedPath(); *first {
		case "":
			*first = now
		case now:
		default:
			return nil, fmt.Errorf("the server redirects from %s to %s, which is not followed", *first, now)
		}
	}
	return t.next.RoundTrip(req)
}
