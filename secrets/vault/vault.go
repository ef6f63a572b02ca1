package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
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

// call is one request to the server.
type call struct {
	request
	query url.Values     // of a read
	body  map[string]any // not nil: the request is a write
	makes bool           // it may make a credential
	fresh bool           // no cache on the way is to answer it
}

// reply is the server's answer to one call, whatever its status.
type reply struct {
	status int
	at     time.Time     // just before the request was sent; of a cache's answer, when that was the server's
	cached bool          // a cache on the way gave it
	ahead  time.Duration // the server's clock, of ours
	body   envelope
	raw    string // the body of an error answer that is not the API's
	head   []byte // how an answer begins that is over a limit
}

// envelope is what is used of an answer of the API; decode reads it.
type envelope struct {
	LeaseID       string
	LeaseDuration int64
	Renewable     bool
	Data          map[string]any
	WrapInfo      json.RawMessage
	MountType     string
	Auth          *struct {
		ClientToken   string `json:"client_token"`
		Accessor      string `json:"accessor"`
		LeaseDuration int64  `json:"lease_duration"`
		Renewable     bool   `json:"renewable"`
		TokenType     string `json:"token_type"`
		NumUses       int    `json:"num_uses"`
	}
	Errors []string
}

func (r reply) ok() bool { return r.status >= 200 && r.status < 300 }

// do sends one request, and gives whatever the server answers. Its error is that there was none.
func (v *Client) do(ctx context.Context, c call) (reply, error) {
	namespace := c.namespace
	if namespace == "" {
		namespace = v.cfg.Namespace
	}
	// Neither can be sent as a header, and the HTTP client would call it a failed connection.
	if strings.ContainsFunc(namespace, unicode.IsControl) {
		return reply{}, secrets.Errorf(secrets.Invalid, "%s: a namespace has no control characters", c.operation)
	}
	if strings.ContainsFunc(c.token.Text(), func(r rune) bool { return r <= ' ' || r >= unicode.MaxASCII }) {
		return reply{}, secrets.Errorf(secrets.Refused, "%s: the token has control characters or spaces in it", c.operation)
	}
	base, err := v.api()
	if err != nil {
		return reply{}, secrets.Errorf(secrets.KindOf(err), "%s: %w", c.operation, err)
	}
	timeout := v.cfg.Timeout
	if c.makes {
		timeout = max(timeout, makeTimeout)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	ctx = context.WithValue(ctx, firstPath{}, new(string))

	// The copies are shallow: they share the transport, and neither token nor namespace is ever
	// set on what other requests use.
	got := capture{ctx: ctx, places: v.large}
	defer got.done()
	client := base.WithNamespace(namespace).WithResponseCallbacks(got.take)
	client.SetToken(c.token.Text())

	if c.fresh || c.makes {
		pastCaches(client)
	}
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
	r := reply{status: got.status, at: at.Add(-got.age), cached: got.cached, ahead: aheadBy(got.date, time.Now())}
	if got.err == nil && r.ok() {
		got.err = secrets.CheckShape(got.body)
	}
	if secrets.IsLimit(got.err) {
		r.head = bytes.Clone(got.body[:min(len(got.body), 4<<10)])
		return r, secrets.Errorf(secrets.Invalid, "%s: %w", c.where(), got.err)
	}
	if got.err != nil {
		return reply{}, c.noAnswer(ctx, got.err)
	}
	if !r.ok() && (len(got.body) > maxErrorAnswer || secrets.CheckShape(got.body) != nil) {
		got.body = nil // no error is so long
	}
	if err := decode(got.body, &r.body); err != nil {
		r.body = envelope{}
		r.raw = string(got.body)
		if r.ok() {
			return reply{}, secrets.Errorf(secrets.Outage, "%s: the answer is not one of the Vault API: is `address` right?", c.operation)
		}
	}
	return r, nil
}

// capture keeps an answer as it came: what the API's own parsing makes of it loses the status and,
// for a 404, the errors.
type capture struct {
	ctx    context.Context
	places chan struct{} // for large answers
	placed bool
	buffer *bytes.Buffer // of a large answer

	status int
	date   time.Time
	cached bool
	age    time.Duration // of a cache's answer
	body   []byte
	err    error
}

func (g *capture) take(resp *api.Response) {
	g.done() // of an answer before this one, should there be any
	g.status = resp.StatusCode
	g.date, _ = http.ParseTime(resp.Header.Get("Date"))
	g.cached, g.age = ageOf(resp.Header)
	g.body, g.err = g.read(resp.Body)
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(nil)) // parsed here, once
}

// read reads an answer within its bounds. One that turns out to be large waits for a place.
func (g *capture) read(body io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(body, smallAnswer))
	if err != nil || len(b) < smallAnswer {
		return b, err
	}
	if g.status < 200 || g.status >= 300 {
		return b, nil // do drops it
	}
	select {
	case g.places <- struct{}{}:
		g.placed = true
	case <-g.ctx.Done():
		return nil, g.ctx.Err()
	}
	all := largeBuffers.Get().(*bytes.Buffer)
	all.Reset()
	all.Write(b)
	g.buffer = all
	if _, err := all.ReadFrom(io.LimitReader(body, maxAnswer+1-int64(len(b)))); err != nil {
		return nil, err
	}
	if all.Len() > maxAnswer {
		return all.Bytes(), secrets.Limitf("the secret is larger than %d MiB, which is the most for one secret; split it", secrets.MaxSecretBytes>>20)
	}
	return all.Bytes(), nil
}

// largeBuffers hold large answers, without growing.
var largeBuffers = sync.Pool{New: func() any {
	return bytes.NewBuffer(make([]byte, 0, maxAnswer+bytes.MinRead+1))
}}

// done gives the place back. The answer's text is not used any more.
func (g *capture) done() {
	g.body = nil
	if g.buffer != nil {
		largeBuffers.Put(g.buffer)
		g.buffer = nil
	}
	if g.placed {
		<-g.places
		g.placed = false
	}
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

// decode parses an answer, its numbers as they were written. Nothing at all is an empty answer. What may be
// large in it is decoded part by part.
func decode(b []byte, to *envelope) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return errors.Join(secrets.ErrNotObject, err)
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		switch key {
		case "lease_id":
			err = d.Decode(&to.LeaseID)
		case "lease_duration":
			err = d.Decode(&to.LeaseDuration)
		case "renewable":
			err = d.Decode(&to.Renewable)
		case "data":
			to.Data, err = decodeData(d)
		case "wrap_info":
			err = d.Decode(&to.WrapInfo)
		case "mount_type":
			err = d.Decode(&to.MountType)
		case "auth":
			err = d.Decode(&to.Auth)
		case "errors":
			err = d.Decode(&to.Errors)
		default:
			_, err = secrets.DecodeValue(d)
		}
		if err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

// decodeData is an object, or null.
func decodeData(d *json.Decoder) (map[string]any, error) {
	v, err := secrets.DecodeValue(d)
	if err != nil || v == nil {
		return nil, err
	}
	data, ok := v.(map[string]any)
	if !ok {
		return nil, secrets.ErrNotObject
	}
	return data, nil
}
