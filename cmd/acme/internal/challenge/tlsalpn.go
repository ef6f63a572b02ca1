package challenge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/go-acme/lego/v5/challenge/resolver"
	"github.com/go-acme/lego/v5/challenge/tlsalpn01"
)

// alpnServer answers tls-alpn-01 challenges: by a certificate for the name that the authority asks for.
type alpnServer struct {
	listener net.Listener
	config   *tls.Config
	cancel   context.CancelFunc // ends handshakes
	running  sync.WaitGroup     // serve and the handshakes

	mu    sync.Mutex
	certs map[string]*tls.Certificate // by domain
}

// maxHandshakes bounds the connections at one time.
const maxHandshakes = 64

func listenTLSALPN(address string) (*alpnServer, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("tls-alpn-01: %w", err)
	}
	s := &alpnServer{listener: l, certs: map[string]*tls.Certificate{}}
	s.config = &tls.Config{NextProtos: []string{tlsalpn01.ACMETLS1Protocol}, GetCertificate: s.certificate, MinVersion: tls.VersionTLS12}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.running.Go(func() { s.serve(ctx) })
	return s, nil
}

// acceptPause follows an error of one connection, or no file descriptors for a moment.
const acceptPause = 100 * time.Millisecond

// serve shakes hands with whoever comes: that is the whole challenge. It ends with ctx.
func (s *alpnServer) serve(ctx context.Context) {
	slots := make(chan struct{}, maxHandshakes)
	for {
		conn, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			conn.Close()
			continue
		}
		s.running.Go(func() {
			defer func() { conn.Close(); <-slots }()
			_ = conn.SetDeadline(time.Now().Add(readTimeout))
			_ = tls.Server(conn, s.config).HandshakeContext(ctx)
		})
	}
}

func (s *alpnServer) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cert := s.certs[strings.ToLower(hello.ServerName)]; cert != nil {
		return cert, nil
	}
	return nil, fmt.Errorf("no challenge for %q", hello.ServerName)
}

// Present answers for a domain from now on.
func (s *alpnServer) Present(_ context.Context, domain, _, keyAuth string) error {
	cert, err := tlsalpn01.ChallengeCert(domain, keyAuth)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.certs[strings.ToLower(domain)] = cert
	return nil
}

// CleanUp no longer answers for it.
func (s *alpnServer) CleanUp(_ context.Context, domain, _, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.certs, strings.ToLower(domain))
	return nil
}

func (s *alpnServer) install(m *resolver.SolverManager) error { return m.SetTLSALPN01Provider(s) }

// close breaks off the handshakes, and returns when all have ended.
func (s *alpnServer) close() {
	_ = s.listener.Close()
	s.cancel()
	s.running.Wait()
}
