package challenge

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-acme/lego/v5/challenge/http01"
	"github.com/go-acme/lego/v5/challenge/resolver"
)

// httpServer answers http-01 challenges: a token is asked for by its path.
type httpServer struct {
	listener net.Listener
	server   *http.Server
	running  sync.WaitGroup // Serve

	mu      sync.Mutex
	answers map[string]string // by path
}

const readTimeout = 10 * time.Second

func listenHTTP(address string) (*httpServer, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("http-01: %w", err)
	}
	s := &httpServer{listener: l, answers: map[string]string{}}
	s.server = &http.Server{Handler: s, ReadTimeout: readTimeout, WriteTimeout: readTimeout, MaxHeaderBytes: 16 << 10}
	s.running.Go(func() { _ = s.server.Serve(l) }) // ends with close
	return s, nil
}

// ServeHTTP answers one request. A token is long, random and known to the authority alone, so that the
// host is not looked at: it may be any of a proxy's.
func (s *httpServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	answer, found := s.answers[r.URL.Path]
	s.mu.Unlock()
	if !found {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, answer)
}

// Present answers a token from now on.
func (s *httpServer) Present(_ context.Context, _, token, keyAuth string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[http01.ChallengePath(token)] = keyAuth
	return nil
}

// CleanUp no longer answers it.
func (s *httpServer) CleanUp(_ context.Context, _, token, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.answers, http01.ChallengePath(token))
	return nil
}

func (s *httpServer) install(m *resolver.SolverManager) error { return m.SetHTTP01Provider(s) }

func (s *httpServer) close() {
	_ = s.server.Close()
	s.running.Wait()
}
