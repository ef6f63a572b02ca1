package harness

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// pebbleProxy passes requests on to the ACME server, under one address for all of its URLs. It counts orders,
// it can refuse some, and it can go away while the server keeps what it knows.
type pebbleProxy struct {
	URL string

	server *http.Server

	mu     sync.Mutex
	away   bool
	orders [][]string // the domains of each order that was made
	seen   func(r *http.Request)
	done   func(r *http.Request)
	refuse func(domains []string) *Refusal
	// adviceAgain replaces the Retry-After of renewal information, which is six hours.
	adviceAgain time.Duration
}

func newPebbleProxy(conf *tls.Config, target string) (*pebbleProxy, error) {
	to, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &pebbleProxy{URL: "https://" + l.Addr().String()}
	discard := log.New(io.Discard, "", 0)
	forward := &httputil.ReverseProxy{
		// The server makes its URLs from the host that it was asked at.
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
		Transport:      &http.Transport{TLSClientConfig: &tls.Config{RootCAs: conf.RootCAs}},
		ModifyResponse: p.answered,
		ErrorLog:       discard,
	}
	p.server = &http.Server{ErrorLog: discard, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		away, seen, refuse := p.away, p.seen, p.refuse
		p.mu.Unlock()
		if away {
			panic(http.ErrAbortHandler)
		}
		if seen != nil {
			seen(r)
		}
		if strings.HasSuffix(r.URL.Path, "/order-plz") { // kept for answered
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
			if refuse != nil {
				domains, err := orderedDomains(r)
				if err != nil {
					panic(http.ErrAbortHandler)
				}
				if refusal := refuse(domains); refusal != nil {
					refusal.write(w)
					return
				}
			}
		}
		forward.ServeHTTP(w, r)
	})}
	go func() { _ = p.server.Serve(tls.NewListener(l, &tls.Config{Certificates: conf.Certificates})) }()
	return p, nil
}

// Refusal is an answer of an authority that does not take an order, as the real server does not give it on demand.
type Refusal struct {
	Status     int
	RetryAfter string // the header's value; empty: there is none
	Type       string // of the problem, without the namespace
	Detail     string
}

func (r *Refusal) write(w http.ResponseWriter) {
	if r.RetryAfter != "" {
		w.Header().Set("Retry-After", r.RetryAfter)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(r.Status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "urn:ietf:params:acme:error:" + r.Type, "detail": r.Detail, "status": r.Status})
}

// RefuseOrders has a function called with the domains of each order. What it returns is the answer, unless that is nil.
func (p *pebbleProxy) RefuseOrders(f func(domains []string) *Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = f
}

// answered notes an order that was made.
func (p *pebbleProxy) answered(resp *http.Response) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done != nil {
		defer p.done(resp.Request)
	}
	if p.away { // also for what it was asked before
		return errors.New("away")
	}
	if p.adviceAgain > 0 && strings.Contains(resp.Request.URL.Path, "/renewalInfo/") {
		resp.Header.Set("Retry-After", fmt.Sprint(int(p.adviceAgain.Seconds())))
	}
	if resp.StatusCode == http.StatusCreated && strings.HasSuffix(resp.Request.URL.Path, "/order-plz") {
		domains, err := orderedDomains(resp.Request)
		if err != nil {
			return err
		}
		p.orders = append(p.orders, domains)
	}
	return nil
}

// orderedDomains reads the domains out of the signed request.
func orderedDomains(r *http.Request) (domains []string, err error) {
	body, err := r.GetBody()
	if err != nil {
		return nil, err
	}
	var signed struct{ Payload string }
	if err := json.NewDecoder(body).Decode(&signed); err != nil {
		return nil, err
	}
	payload, err := base64.RawURLEncoding.DecodeString(signed.Payload)
	if err != nil {
		return nil, err
	}
	var order struct{ Identifiers []struct{ Value string } }
	if err := json.Unmarshal(payload, &order); err != nil {
		return nil, err
	}
	for _, identifier := range order.Identifiers {
		domains = append(domains, identifier.Value)
	}
	return domains, nil
}

// Orders counts the orders that were made for a domain, or all if it is empty.
func (p *pebbleProxy) Orders(domain string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, domains := range p.orders {
		if domain == "" || slices.Contains(domains, domain) {
			n++
		}
	}
	return n
}

// SetAway lets every connection break, or no longer.
func (p *pebbleProxy) SetAway(away bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = away
}

// Seen has a function called for each request before it is passed on.
func (p *pebbleProxy) Seen(f func(*http.Request)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = f
}

// Done has a function called for each request that the server has answered, before the answer is passed on.
func (p *pebbleProxy) Done(f func(*http.Request)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = f
}

// AskAgainAfter is when the authority wants to be asked again for its renewal information.
func (p *pebbleProxy) AskAgainAfter(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.adviceAgain = d
}

// Close ends the proxy.
func (p *pebbleProxy) Close() { p.server.Close() }

// selfSigned makes a certificate for an address of this machine, and its key, in PEM.
func selfSigned(ip string) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "e2e"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.ParseIP(ip)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), nil
}
