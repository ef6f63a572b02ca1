// Package telemetry shows how the issuer is: metrics for Prometheus, a health check for Nomad, and the log.
package telemetry

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Status is how a certificate is after a step.
type Status struct {
	Name     string    `json:"name"`
	Path     string    `json:"path"`
	Serial   string    `json:"serial_number,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	RenewAt  time.Time `json:"renew_at,omitzero"`
	NextLook time.Time `json:"next_look,omitzero"`
	Result   string    `json:"result,omitempty"` // the kind of failure, if the step failed
	Error    string    `json:"error,omitempty"`
}

// Metrics are the issuer's numbers. They are safe for use by several goroutines.
type Metrics struct {
	registry *prometheus.Registry
	notAfter *prometheus.GaugeVec
	renewAt  *prometheus.GaugeVec
	failing  *prometheus.GaugeVec
	orders   *prometheus.CounterVec

	mu       sync.Mutex
	statuses map[string]Status // by name; one that was not looked at yet is not there
	names    []string
}

// NewMetrics are the metrics of certificates of these names.
func NewMetrics(names []string) *Metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "acme_issuer", Name: name, Help: help}, labels)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		notAfter: gauge("certificate_not_after_timestamp_seconds", "When the certificate in Vault ends.", "certificate"),
		renewAt:  gauge("certificate_renewal_timestamp_seconds", "When the certificate in Vault is due.", "certificate"),
		failing:  gauge("certificate_failing", "1 if the last attempt failed, with its result.", "certificate", "result"),
		orders: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "acme_issuer", Name: "orders_total", Help: "Orders by their result.",
		}, []string{"certificate", "result"}),
		statuses: map[string]Status{},
		names:    names,
	}
	m.registry.MustRegister(m.notAfter, m.renewAt, m.failing, m.orders,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Ordered counts an order.
func (m *Metrics) Ordered(certificate, result string) {
	m.orders.WithLabelValues(certificate, result).Inc()
}

// Report shows a certificate's status.
func (m *Metrics) Report(s Status) {
	set := func(v *prometheus.GaugeVec, at time.Time) {
		if at.IsZero() {
			v.DeleteLabelValues(s.Name)
		} else {
			v.WithLabelValues(s.Name).Set(float64(at.Unix()))
		}
	}
	set(m.notAfter, s.NotAfter)
	set(m.renewAt, s.RenewAt)
	m.failing.DeletePartialMatch(prometheus.Labels{"certificate": s.Name})
	if s.Result != "" {
		m.failing.WithLabelValues(s.Name, s.Result).Set(1)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.statuses[s.Name] = s
}

// Statuses are those of all certificates, and whether each was looked at.
func (m *Metrics) Statuses() (all []Status, complete bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	complete = true
	for _, name := range m.names {
		status, looked := m.statuses[name]
		complete = complete && looked
		status.Name = name
		all = append(all, status)
	}
	return all, complete
}
