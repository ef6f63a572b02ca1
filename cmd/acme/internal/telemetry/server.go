package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server answers /metrics and /health.
type Server struct {
	server *http.Server
	ended  chan error
}

const serverTimeout = 10 * time.Second

// Listen starts a server. ready returns why the issuer cannot work, or nil.
func Listen(address string, m *Metrics, ready func(context.Context) error) (*Server, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.Handle("GET /health", healthHandler(m, ready))
	s := &Server{
		server: &http.Server{Handler: mux, ReadTimeout: serverTimeout, WriteTimeout: 3 * serverTimeout, MaxHeaderBytes: 16 << 10},
		ended:  make(chan error, 1),
	}
	go func() { s.ended <- s.server.Serve(l) }()
	return s, nil
}

// healthHandler answers 200 if every certificate was looked at and Vault answers. A certificate that cannot be
// renewed does not make the issuer unhealthy, since a restart would not help: the answer and the
// metrics show it.
func healthHandler(m *Metrics, ready func(context.Context) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		statuses, complete := m.Statuses()
		answer := struct {
			Status       string   `json:"status"`
			Certificates []Status `json:"certificates"`
		}{"ok", statuses}
		code := http.StatusOK
		ctx, cancel := context.WithTimeout(r.Context(), serverTimeout)
		defer cancel()
		if err := ready(ctx); err != nil {
			answer.Status, code = err.Error(), http.StatusServiceUnavailable
		} else if !complete {
			answer.Status, code = "starting", http.StatusServiceUnavailable
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(answer)
	})
}

// Close ends the server.
func (s *Server) Close() error {
	err := s.server.Close()
	if served := <-s.ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
