package secrets

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hashicorp/vault/api"
)

const (
	defaultVaultTimeout = 30 * time.Second
	defaultMountMaxAge  = 60 * time.Second

	// maxAnswer bounds what is read of one answer. Vault's own bound on a request is 32 MiB, so
	// no secret it holds is larger.
	maxAnswer = 32 << 20

	clockSlack = 5 * time.Second
)

// VaultConfig is what the operator says of the secrets server (DESIGN 4). No job can set any of it.
type VaultConfig struct {
	Address       string // empty: $VAULT_ADDR of the plugin's environment
	Namespace     string // for requests that name none
	CACert        string // this and the next three are files, followed when they change on disk
	CAPath        string
	ClientCert    string
	ClientKey     string
	TLSServerName string
	TLSSkipVerify bool

	Timeout     time.Duration // of one request; 0: 30s
	MountMaxAge time.Duration // how long a mount's type is believed; 0: 60s
}

// Vault is the Provider that speaks the Vault API. Make it with NewVault. It has no goroutines of
// its own; Close gives its idle connections back.
type Vault struct {
	cfg    VaultConfig
	files  tlsFiles
	mounts mountCache

	mu        sync.Mutex
	client    *api.Client // nil until the first request; made anew when a TLS file changes
	transport *http.Transport
	stamp     string // of the TLS files that client was made from
}

var _ Provider = (*Vault)(nil)

// NewVault checks cfg. What may heal by itself, a certificate that is not there yet, and what a
// task without secrets need not care about, an empty address, is an error of the requests instead:
// neither may stop an agent.
func NewVault(cfg VaultConfig) (*Vault, error) {
	if cfg.Address == "" {
		cfg.Address = os.Getenv(api.EnvVaultAddress)
	}
	if cfg.Address != "" {
		u, err := url.Parse(cfg.Address)
		if err != nil {
			return nil, Errorf(Invalid, "address: not a URL") // its text may hold a password
		}
		if u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "unix" {
			return nil, Errorf(Invalid, "address: %q is not a URL that begins with https://, http:// or unix://", u.Redacted())
		}
	}
	if (cfg.ClientCert == "") != (cfg.ClientKey == "") {
		return nil, Errorf(Invalid, "client_cert and client_key: one needs the other")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultVaultTimeout
	}
	if cfg.MountMaxAge <= 0 {
		cfg.MountMaxAge = defaultMountMaxAge
	}
	return &Vault{
		cfg:    cfg,
		files:  tlsFiles{caCert: cfg.CACert, caPath: cfg.CAPath, cert: cfg.ClientCert, key: cfg.ClientKey},
		mounts: newMountCache(cfg.MountMaxAge),
	}, nil
}

// Close gives back the idle connections. Requests under way go on.
func (v *Vault) Close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.transport != nil {
		v.transport.CloseIdleConnections()
	}
}

// api gives the client, made anew if a TLS file has changed since: a rotated certificate is used
// from the next request on.
func (v *Vault) api() (*api.Client, error) {
	if v.cfg.Address == "" {
		return nil, Errorf(Invalid, "no address of a secrets server: set `address` in the agent's configuration, plugin \"…\" { config { secrets { address = \"https://…:8200\" } } }, or VAULT_ADDR in the agent's environment")
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

func newTransport(tlsConfig *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       tlsConfig,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   32, // 16 starts and revocations at once, and the background's
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
			Transport: transport,
			// The API client follows one redirect by itself, with the token; net/http must not.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		MaxRetries: 0, // each call is one attempt: waiting is the caller's
	})
	if err != nil {
		// The address was checked: what is left is a VAULT_… variable that NewClient cannot
		// help reading, such as a VAULT_CACERT that is not there.
		return nil, Errorf(Outage, "make a Vault client (is a VAULT_… variable in the agent's environment wrong?): %w", err)
	}
	client.ClearToken()
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	return client, nil
}

// call is one request to the server.
type call struct {
	errand
	query url.Values     // of a read
	body  map[string]any // not nil: the request is a write
}

// reply is the server's answer to one call, whatever its status.
type reply struct {
	status int
	at     time.Time     // just before the request was sent
	ahead  time.Duration // the server's clock, of ours
	body   envelope
	raw    string // the body of an error answer that is not the API's
}

// envelope is the form of every answer of the API.
type envelope struct {
	LeaseID       string          `json:"lease_id"`
	LeaseDuration int64           `json:"lease_duration"`
	Renewable     bool            `json:"renewable"`
	Data          map[string]any  `json:"data"`
	WrapInfo      json.RawMessage `json:"wrap_info"`
	MountType     string          `json:"mount_type"`
	Auth          *struct {
		ClientToken   string `json:"client_token"`
		Accessor      string `json:"accessor"`
		LeaseDuration int64  `json:"lease_duration"`
		Renewable     bool   `json:"renewable"`
	} `json:"auth"`
	Errors []string `json:"errors"`
}

func (r reply) ok() bool { return r.status >= 200 && r.status < 300 }

// do sends one request, and gives whatever the server answers. Its error is that there was none.
func (v *Vault) do(ctx context.Context, c call) (reply, error) {
	namespace := c.namespace
	if namespace == "" {
		namespace = v.cfg.Namespace
	}
	// Neither can be sent as a header, and the HTTP client would call it a failed connection.
	if strings.ContainsFunc(namespace, unicode.IsControl) {
		return reply{}, Errorf(Invalid, "%s: a namespace has no control characters", c.doing)
	}
	if strings.ContainsFunc(c.token.Text(), func(r rune) bool { return r <= ' ' || r >= unicode.MaxASCII }) {
		return reply{}, Errorf(Refused, "%s: the token has control characters or spaces in it: it is none", c.doing)
	}
	base, err := v.api()
	if err != nil {
		return reply{}, Errorf(KindOf(err), "%s: %w", c.doing, err)
	}
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()

	// The copies are shallow: they share the transport, and neither token nor namespace is ever
	// set on what other requests use.
	var got capture
	client := base.WithNamespace(namespace).WithResponseCallbacks(got.take)
	client.SetToken(c.token.Text())

	at := time.Now()
	if c.body != nil {
		_, err = client.Logical().WriteWithContext(ctx, c.path, c.body)
	} else {
		_, err = client.Logical().ReadWithDataWithContext(ctx, c.path, c.query)
	}
	if got.status == 0 {
		if err == nil {
			err = errors.New("no answer")
		}
		return reply{}, c.noAnswer(ctx, err)
	}
	if got.err != nil {
		return reply{}, c.noAnswer(ctx, got.err)
	}
	r := reply{status: got.status, at: at, ahead: aheadBy(got.date, time.Now())}
	if err := decode(got.body, &r.body); err != nil {
		r.body = envelope{}
		r.raw = string(got.body)
		if r.ok() {
			return reply{}, Errorf(Outage, "%s: the answer is not one of the Vault API: is `address` right?", c.doing)
		}
	}
	return r, nil
}

// capture keeps an answer as it came: what the API's own parsing makes of it loses the status and,
// for a 404, the errors.
type capture struct {
	status int
	date   time.Time
	body   []byte
	err    error
}

func (g *capture) take(resp *api.Response) {
	g.status = resp.StatusCode
	g.date, _ = http.ParseTime(resp.Header.Get("Date"))
	g.body, g.err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if g.err == nil && len(g.body) > maxAnswer {
		g.err = errors.New("the answer is larger than 32 MiB")
	}
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(nil)) // parsed here, once
}

// aheadBy is how far the server's clock is ahead of ours, by an answer's date: that is in whole seconds,
// and was under way, so a little means nothing.
func aheadBy(date, now time.Time) time.Duration {
	ahead := date.Sub(now)
	if date.IsZero() || ahead.Abs() < clockSlack {
		return 0
	}
	return ahead
}

// decode parses an answer, its numbers as they were written. Nothing at all is an empty answer.
func decode(b []byte, to *envelope) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(to)
}
