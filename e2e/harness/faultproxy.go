package harness

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// FaultProxy stands before one or more servers, as a load balancer does, and answers for them what a
// real one will not on demand. Without a fault requests go to the servers in turn.
type FaultProxy struct {
	Addr string // a URL

	listen  string
	tls     *tls.Config
	targets []*url.URL
	turn    atomic.Uint64
	forward *httputil.ReverseProxy

	mu     sync.Mutex // guards what follows
	seen   func(*http.Request)
	fault  Fault
	over   chan struct{} // closed when fault is
	left   int
	server *http.Server // nil: connections are refused
}

// Fault is what a proxy does to requests instead of passing them on. The first field that is set
// decides; Delay may come with nothing else, and then they are passed on late.
type Fault struct {
	Status int  // answered, with a body as Vault's
	Reset  bool // the connection is reset
	Hang   bool // nothing is answered until the fault is over
	Delay  time.Duration

	Path  string // only requests whose path has this in it; empty: all
	Times int    // only so many requests; 0: all
}

// NewFaultProxy starts a proxy before the servers at these URLs, with TLS if there is a
// configuration for it. Close ends it.
func NewFaultProxy(conf *tls.Config, targets ...string) (*FaultProxy, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p := &FaultProxy{listen: fmt.Sprintf("127.0.0.1:%d", port), tls: conf, over: make(chan struct{})}
	p.Addr = "http://" + p.listen
	if conf != nil {
		p.Addr = "https://" + p.listen
	}
	for _, target := range targets {
		u, err := url.Parse(target)
		if err != nil {
			return nil, err
		}
		p.targets = append(p.targets, u)
	}
	discard := log.New(io.Discard, "", 0)
	p.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(p.targets[int(p.turn.Add(1))%len(p.targets)])
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute},
		ErrorLog:  discard,
	}
	return p, p.Accept()
}

// Accept undoes Refuse.
func (p *FaultProxy) Accept() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return nil
	}
	l, err := net.Listen("tcp", p.listen)
	if err != nil {
		return err
	}
	if p.tls != nil {
		l = tls.NewListener(l, p.tls)
	}
	p.server = &http.Server{Handler: p, ErrorLog: log.New(io.Discard, "", 0)}
	go func(s *http.Server) { _ = s.Serve(l) }(p.server)
	return nil
}

// Refuse breaks all connections, and has new ones refused.
func (p *FaultProxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		p.server.Close()
		p.server = nil
	}
}

// Close ends the proxy.
func (p *FaultProxy) Close() {
	p.Heal()
	p.Refuse()
}

// Break begins a fault, in the place of one that there may be.
func (p *FaultProxy) Break(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.over)
	p.fault, p.over, p.left = f, make(chan struct{}), f.Times
}

// Heal ends the fault.
func (p *FaultProxy) Heal() { p.Break(Fault{}) }

// Seen has a function called for each request as it comes.
func (p *FaultProxy) Seen(f func(*http.Request)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = f
}

// next is the fault for a request, and what is closed when it is over.
func (p *FaultProxy) next(r *http.Request) (Fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen != nil {
		p.seen(r)
	}
	if !strings.Contains(r.URL.Path, p.fault.Path) {
		return Fault{}, nil
	}
	if p.fault.Times > 0 {
		if p.left == 0 {
			return Fault{}, nil
		}
		p.left--
	}
	return p.fault, p.over
}

func (p *FaultProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, over := p.next(r)
	switch {
	case f.Status != 0:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(f.Status)
		fmt.Fprintf(w, `{"errors":["%d by the proxy"]}`, f.Status)
		return
	case f.Reset:
		reset(w)
		return
	case f.Hang:
		select {
		case <-over:
		case <-r.Context().Done():
		}
		reset(w)
		return
	case f.Delay > 0:
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
			return
		}
	}
	p.forward.ServeHTTP(w, r)
}

// reset ends a connection without an answer.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if errors.Is(err, http.ErrNotSupported) { // HTTP/2 has streams, not connections
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}
