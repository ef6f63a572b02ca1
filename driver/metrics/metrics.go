package metrics

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const namespace = "nomad_secrets"

// Metrics are one plugin process's, in a registry of their own. They count from New on, whether or not anybody asks. Safe for
// concurrent use; nil counts nothing.
type Metrics struct {
	registry *prometheus.Registry
	log      hclog.Logger

	rotations  *prometheus.CounterVec
	renewals   *prometheus.CounterVec
	requests   *prometheus.CounterVec
	durations  *prometheus.HistogramVec
	restartGap prometheus.Histogram
	liveReads  *prometheus.CounterVec
}

var _ lifecycle.Meter = (*Metrics)(nil)

// New makes the metrics of the driver with this name.
func New(log hclog.Logger) *Metrics {
	m := &Metrics{
		registry:  prometheus.NewRegistry(),
		log:       log,
		rotations: counter("rotations_total", "Attempts to give a task another secret, one for each secret.", "cause", "mode", "result"),
		renewals:  counter("renewals_total", "Attempts to extend a lease or a task's own token.", "result"),
		requests:  counter("server_requests_total", "Requests to the secrets servers.", "operation", "result"),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "server_request_duration_seconds",
			Help:    "How long the secrets servers took to answer, without the requests' waits for their turn.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"operation"}),
		restartGap: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "restart_gap_seconds",
			Help:    "How long a task had no process when it was restarted in place.",
			Buckets: []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300},
		}),
		liveReads: counter("live_reads_total", "Files opened in live directories.", "result"),
	}
	m.beginAtZero()
	m.registry.MustRegister(m.rotations, m.renewals, m.requests, m.durations, m.restartGap, m.liveReads,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// beginAtZero makes each series of the counters: of one that appears with its first failure, Prometheus sees no increase. The
// page says how many these are.
func (m *Metrics) beginAtZero() {
	for _, was := range lifecycle.Results() {
		m.renewals.WithLabelValues(string(was))
		for _, what := range lifecycle.Operations() {
			m.requests.WithLabelValues(string(what), string(was))
		}
		for _, why := range lifecycle.Causes() {
			for _, how := range secrets.Modes() {
				m.rotations.WithLabelValues(string(why), how.String(), string(was))
			}
		}
	}
	for was := range liveResults {
		m.liveReads.WithLabelValues(was)
	}
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

// Rotated counts an attempt to give a task another secret.
func (m *Metrics) Rotated(why lifecycle.Cause, how secrets.Mode, was lifecycle.RequestResult) {
	if m != nil {
		m.rotations.WithLabelValues(string(causeOf(why)), how.String(), string(was)).Inc()
	}
}

// causeOf is a cause as a label: one that a newer version of the plugin journalled is not known.
func causeOf(c lifecycle.Cause) lifecycle.Cause {
	if c.Known() {
		return c
	}
	return lifecycle.CauseUnknown
}

// Renewed counts an attempt to extend a lease or a token.
func (m *Metrics) Renewed(was lifecycle.RequestResult) {
	if m != nil {
		m.renewals.WithLabelValues(string(was)).Inc()
	}
}

// Requested counts a request to a secrets server. A wait for a change is not timed: it takes as long as nothing changes.
func (m *Metrics) Requested(what lifecycle.RequestKind, was lifecycle.RequestResult, took time.Duration) {
	if m == nil {
		return
	}
	m.requests.WithLabelValues(string(what), string(was)).Inc()
	if what != lifecycle.OperationWait {
		m.durations.WithLabelValues(string(what)).Observe(took.Seconds())
	}
}

// Restarted notes how long a task had no process.
func (m *Metrics) Restarted(gap time.Duration) {
	if m != nil {
		m.restartGap.Observe(gap.Seconds())
	}
}

// liveResults are what comes of opening a file in a live directory; of those that are lost it is not known.
var liveResults = map[string]bool{"ok": true, "unknown": true, "stale": true, "full": true, "lost": true}

// LiveRead counts files that were opened in live directories.
func (m *Metrics) LiveRead(result string, n int) {
	if m != nil && liveResults[result] {
		m.liveReads.WithLabelValues(result).Add(float64(n))
	}
}

// Handler answers scrapes.
func (m *Metrics) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes, // each makes a list of all secrets
		ErrorHandling:       promhttp.ContinueOnError,
		ErrorLog:            scrapeLog{m.log},
	}))
	return mux
}

// maxScrapes is how many may be under way at once.
const maxScrapes = 4

type scrapeLog struct{ hclog.Logger }

// Println has the errors as text: as JSON, which the agent is sent, an error is empty.
func (l scrapeLog) Println(v ...any) {
	l.Warn("metrics", "error", strings.TrimSpace(fmt.Sprintln(v...)))
}
