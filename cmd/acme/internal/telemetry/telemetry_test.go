package telemetry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/redact"
)

func answer(t *testing.T, h http.Handler) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	body, err := io.ReadAll(w.Body)
	require.NoError(t, err)
	return w.Code, string(body)
}

// The check passes once each certificate was looked at, as long as Vault answers. One that fails is shown.
func TestHealth(t *testing.T) {
	m := NewMetrics([]string{"one", "two"})
	var vault error
	h := healthHandler(m, func(context.Context) error { return vault })
	code, body := answer(t, h)
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, `"status":"starting"`)

	m.Report(Status{Name: "one"})
	m.Report(Status{Name: "two", Result: "refused", Error: "the authority said no"})
	code, body = answer(t, h)
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, body, `"status":"ok"`)
	require.Contains(t, body, `"name":"two","path":"","result":"refused","error":"the authority said no"`)

	vault = errors.New("connection refused")
	code, body = answer(t, h)
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "connection refused")
}

func TestMetrics(t *testing.T) {
	m := NewMetrics([]string{"web"})
	end := time.Unix(2000000000, 0)
	m.Ordered("web", "refused")
	m.Report(Status{Name: "web", Result: "refused"})
	m.Ordered("web", "issued")
	m.Report(Status{Name: "web", NotAfter: end, RenewAt: end.Add(-time.Hour)})
	_, body := answer(t, promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	require.Contains(t, body, `acme_issuer_certificate_not_after_timestamp_seconds{certificate="web"} 2e+09`)
	require.Contains(t, body, `acme_issuer_certificate_renewal_timestamp_seconds{certificate="web"} 1.9999964e+09`)
	require.Contains(t, body, `acme_issuer_orders_total{certificate="web",result="issued"} 1`)
	require.Contains(t, body, `acme_issuer_orders_total{certificate="web",result="refused"} 1`)
	require.NotContains(t, body, "certificate_failing{")
}

// What lego logs is there, one level lower, and without credentials.
func TestLegosLog(t *testing.T) {
	var out bytes.Buffer
	log := Slog(NewLog(&out, "debug", false), redact.New([]string{"API_TOKEN=hunter2hunter2"}))
	log.Info("step", slog.String("url", "https://x/?t=hunter2hunter2"))
	log.With("a", "hunter2hunter2").Warn("careful, hunter2hunter2")
	log.Debug("detail")
	require.Contains(t, out.String(), "[DEBUG] acme-issuer.lego: step: url=https://x/?t=[redacted]")
	require.Contains(t, out.String(), "[WARN]  acme-issuer.lego: careful, [redacted]: a=[redacted]")
	require.NotContains(t, out.String(), "detail")
	require.NotContains(t, out.String(), "hunter2")
}
