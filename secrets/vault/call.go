package vault

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/hashicorp/vault/api"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

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
	status     int
	at         time.Time     // just before the request was sent; of a cache's answer, when that was the server's
	cached     bool          // a cache on the way gave it
	ahead      time.Duration // the server's clock, of ours
	retryAfter time.Duration // what a server that limits requests asks for
	body       envelope
	raw        string // the body of an error answer that is not the API's
	head       []byte // how an answer begins that is over a limit
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
	r := reply{status: got.status, at: at.Add(-got.age), cached: got.cached, ahead: aheadBy(got.date, time.Now()), retryAfter: got.retryAfter}
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

	status     int
	date       time.Time
	retryAfter time.Duration
	cached     bool
	age        time.Duration // of a cache's answer
	body       []byte
	err        error
}

func (g *capture) take(resp *api.Response) {
	g.done() // of an answer before this one, should there be any
	g.status = resp.StatusCode
	g.date, _ = http.ParseTime(resp.Header.Get("Date"))
	g.retryAfter = retryAfter(resp.Header)
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

// retryAfter is what an answer asks for in seconds, as the server does. Proxies may give a date, which our clock need not agree with.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
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
