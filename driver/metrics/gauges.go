package metrics

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

// maxSeries is how many label sets there are at most, of three series each. A node with more tells of all its secrets
// together.
const maxSeries = 10_000

// Gauges says how things stand whenever that is asked for. known is false as long as nothing is known.
type Gauges func() (g lifecycle.Gauges, known bool)

var secretLabels = []string{"driver", "namespace", "job", "group", "task", "secret"}

var (
	descExpires = describe("expiration_timestamp_seconds", "When the credential in hand ends, if it is not renewed or replaced.", secretLabels...)
	descRenews  = describe("renewal_timestamp_seconds", "When the credential is to be renewed or replaced; in the past: that fails.", secretLabels...)
	descReady   = describe("ready", "1 if the task has its secret as it is to be; 0 if it has ended, was revoked, or cannot be fetched or replaced.", secretLabels...)
	descPending = describe("revocations_pending", "Revocations that are still to be done, of tasks that have ended and of what was replaced.")
	descOutage  = describe("outage", "1 if a secrets server does not answer.")
	descRate    = describe("request_rate", "Background requests a second that go to the secrets server: request_rate, or less while a server is away or overloaded.")
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

// collector makes the gauges anew at each scrape.
type collector struct {
	driver    string
	perSecret bool
	gauges    Gauges
	tooMany   func() // called once there are too many label sets
	once      sync.Once
}

// Collect has the gauges of a driver collected from now on. It is to be called once.
func (m *Metrics) Collect(driver string, perSecret bool, g Gauges) {
	m.registry.MustRegister(&collector{driver: driver, perSecret: perSecret, gauges: g, tooMany: func() {
		m.log.Warn("more secrets than metrics are kept of one by one; there is one series for all of them, as with per_secret = false", "most", maxSeries)
	}})
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descExpires, descRenews, descReady, descPending, descOutage, descRate} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	g, known := c.gauges()
	if !known {
		return
	}
	for l, s := range c.series(time.Now(), g.Tasks) {
		values := []string{c.driver, l.namespace, l.job, l.group, l.task, l.secret}
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, values...)
		}
		if !s.expires.IsZero() { // what does not end has no sample
			gauge(descExpires, seconds(s.expires))
		}
		if !s.renews.IsZero() {
			gauge(descRenews, seconds(s.renews))
		}
		gauge(descReady, number(s.ready))
	}
	ch <- prometheus.MustNewConstMetric(descPending, prometheus.GaugeValue, float64(g.RevocationsPending))
	ch <- prometheus.MustNewConstMetric(descOutage, prometheus.GaugeValue, number(g.Outage))
	ch <- prometheus.MustNewConstMetric(descRate, prometheus.GaugeValue, g.RequestRate)
}

// labels are those of a series, but for the driver. All empty: of all secrets together.
type labels struct{ namespace, job, group, task, secret string }

// series is the worst of all secrets with the same labels.
type series struct {
	expires, renews time.Time // zero: none of them ends
	ready           bool
}

type seriesOf map[labels]series

// add takes a secret in.
func (of seriesOf) add(l labels, now time.Time, g lifecycle.SecretGauge) {
	s, known := of[l]
	of[l] = series{
		expires: earliest(s.expires, g.Expires), renews: earliest(s.renews, g.Renews),
		ready: g.ReadyAt(now) && (s.ready || !known),
	}
}

// earliest is the first of two moments that are not zero.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// series are the label sets, and one for all secrets if there would be too many.
func (c *collector) series(now time.Time, tasks []lifecycle.TaskGauges) seriesOf {
	all, each := seriesOf{}, seriesOf{}
	for _, t := range tasks {
		l := labels{namespace: label(t.Task.Namespace), job: label(parentOf(t.Task.JobID)), group: label(t.Task.Group), task: label(t.Task.Name)}
		for _, s := range t.Secrets {
			all.add(labels{}, now, s)
			if c.perSecret && len(each) <= maxSeries {
				l.secret = label(s.Name)
				each.add(l, now, s)
			}
		}
	}
	switch {
	case !c.perSecret:
		return all
	case len(each) > maxSeries:
		c.once.Do(c.tooMany)
		return all
	}
	return each
}

// parentOf is the job that a dispatched or a periodic one is a run of: each run has an id of its own.
func parentOf(jobID string) string {
	for _, launch := range []string{"/dispatch-", "/periodic-"} {
		if i := strings.LastIndex(jobID, launch); i > 0 {
			jobID = jobID[:i]
		}
	}
	return jobID
}

// label is a name as a label's value, which must be UTF-8.
func label(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
