package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scrape is what Prometheus gets, without the comments and what is of the process.
func scrape(t *testing.T, m *Metrics) []string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	must.EqOp(t, http.StatusOK, w.Code, must.Sprint(w.Body.String()))
	var lines []string
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, namespace) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// begins are those lines that begin so.
func begins(lines []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.HasPrefix(l, prefix) })
}

func with(t *testing.T, perSecret bool, tasks ...lifecycle.TaskGauges) (lines []string, log string) {
	t.Helper()
	var out bytes.Buffer
	m := New(hclog.New(&hclog.LoggerOptions{Output: &out}))
	m.Collect("docker", perSecret, func() (lifecycle.Gauges, bool) {
		return lifecycle.Gauges{Tasks: tasks, RevocationsPending: 3, Outage: true, RequestRate: 2.5}, true
	})
	scrape(t, m)
	return scrape(t, m), out.String()
}

func task(alloc, job string, all ...lifecycle.SecretGauge) lifecycle.TaskGauges {
	return lifecycle.TaskGauges{
		Task:    lifecycle.Task{AllocID: alloc, Namespace: "default", JobID: job, Group: "g", Name: "app"},
		Secrets: all,
	}
}

// later is a moment that has not come, and seconds of it as a sample.
func later(seconds int64) time.Time { return time.Unix(4e9+seconds, 0) }

const ofWeb = `{driver="docker",group="g",job="web",namespace="default",secret="%s",task="app"} `

// Allocations of one group share their series: the earliest moment and the worst readiness. What does not end has no sample.
func TestGauges(t *testing.T) {
	lines, _ := with(t, true,
		task("one", "web",
			lifecycle.SecretGauge{Name: "db", Expires: later(500), Renews: later(100), Ready: true},
			lifecycle.SecretGauge{Name: "app", Ready: true}),
		task("two", "web",
			lifecycle.SecretGauge{Name: "db", Expires: later(400), Renews: later(200), Ready: true},
			lifecycle.SecretGauge{Name: "app"}),
		task("three", "web", lifecycle.SecretGauge{Name: "db", Ready: true}),
	)
	sample := func(name, secret, value string) string {
		return namespace + "_" + name + fmt.Sprintf(ofWeb, secret) + value
	}
	must.Eq(t, []string{sample("expiration_timestamp_seconds", "db", "4.0000004e+09")}, begins(lines, namespace+"_expiration"))
	must.Eq(t, []string{sample("renewal_timestamp_seconds", "db", "4.0000001e+09")}, begins(lines, namespace+"_renewal_timestamp"))
	must.Eq(t, []string{sample("ready", "app", "0"), sample("ready", "db", "1")}, begins(lines, namespace+"_ready"))
	must.Eq(t, []string{namespace + "_revocations_pending 3"}, begins(lines, namespace+"_revocations"))
	must.Eq(t, []string{namespace + "_outage 1"}, begins(lines, namespace+"_outage"))
	must.Eq(t, []string{namespace + "_request_rate 2.5"}, begins(lines, namespace+"_request_rate"))
}

// What has ended since it was last looked at is not ready.
func TestEndedIsNotReady(t *testing.T) {
	lines, _ := with(t, true, task("one", "web", lifecycle.SecretGauge{Name: "db", Expires: time.Now().Add(-time.Second), Ready: true}))
	must.Eq(t, []string{namespace + "_ready" + fmt.Sprintf(ofWeb, "db") + "0"}, begins(lines, namespace+"_ready"))
}

// With per_secret = false there is one series for all secrets, for which the same alerts hold.
func TestSumsOnly(t *testing.T) {
	lines, log := with(t, false,
		task("one", "web", lifecycle.SecretGauge{Name: "db", Expires: later(500), Renews: later(100), Ready: true}),
		task("two", "api", lifecycle.SecretGauge{Name: "db", Expires: later(400), Renews: later(200)}))
	const of = `{driver="docker",group="",job="",namespace="",secret="",task=""} `
	must.Eq(t, []string{namespace + "_expiration_timestamp_seconds" + of + "4.0000004e+09"}, begins(lines, namespace+"_expiration"))
	must.Eq(t, []string{namespace + "_renewal_timestamp_seconds" + of + "4.0000001e+09"}, begins(lines, namespace+"_renewal_timestamp"))
	must.Eq(t, []string{namespace + "_ready" + of + "0"}, begins(lines, namespace+"_ready"))
	must.EqOp(t, "", log)
}

// However many secrets there are, the series are bounded, and the log says once that they are not kept one by one.
func TestSeriesAreBounded(t *testing.T) {
	var tasks []lifecycle.TaskGauges
	for i := range 100 {
		var all []lifecycle.SecretGauge
		for j := range maxSeries/100 + 1 {
			all = append(all, lifecycle.SecretGauge{Name: fmt.Sprint("s", j), Expires: later(int64(i)), Ready: true})
		}
		tasks = append(tasks, task("one", fmt.Sprint("job-", i), all...))
	}
	lines, log := with(t, true, tasks...)
	must.SliceLen(t, 1, begins(lines, namespace+"_ready"))
	must.SliceLen(t, 1, begins(lines, namespace+"_expiration"))
	must.EqOp(t, 1, strings.Count(log, "[WARN]"), must.Sprint(log))
}

// Each run of a dispatched or a periodic job has an id of its own, and no series of its own.
func TestRunsOfOneJob(t *testing.T) {
	ready := lifecycle.SecretGauge{Name: "db", Ready: true}
	lines, _ := with(t, true,
		task("one", "web/dispatch-1700000000-abcdef01", ready), task("two", "web/dispatch-1700000001-abcdef02", ready),
		task("three", "web/periodic-1700000000", ready), task("four", "web/periodic-1700000000/dispatch-1700000001-abcdef02", ready))
	must.Eq(t, []string{namespace + "_ready" + fmt.Sprintf(ofWeb, "db") + "1"}, begins(lines, namespace+"_ready"))
}

// The agent's log says what of a scrape cannot be collected; it gets our lines as JSON.
func TestScrapeErrorIsLogged(t *testing.T) {
	var out bytes.Buffer
	m := New(hclog.New(&hclog.LoggerOptions{Output: &out, JSONFormat: true}))
	broken := prometheus.NewInvalidMetric(descOutage, errors.New("of two kinds"))
	m.registry.MustRegister(invalid{broken})
	scrape(t, m)
	must.StrContains(t, out.String(), "of two kinds")
}

type invalid struct{ prometheus.Metric }

func (invalid) Describe(chan<- *prometheus.Desc)      {}
func (i invalid) Collect(ch chan<- prometheus.Metric) { ch <- i.Metric }

// A job's name may hold anything.
func TestNamesThatAreNoLabels(t *testing.T) {
	lines, _ := with(t, true, task("one", "we\xff\"\n", lifecycle.SecretGauge{Name: "db", Ready: true}))
	must.StrContains(t, begins(lines, namespace+"_ready")[0], `job="we`+"\uFFFD"+`\"\n"`)
}

// What is counted has the labels that the page says, and no cause that is not known.
func TestCounters(t *testing.T) {
	m := New(hclog.NewNullLogger())
	m.Rotated(lifecycle.CauseLeaseMaximum, secrets.Restart, lifecycle.ResultOK)
	m.Rotated("of a newer version", secrets.SendSignal, lifecycle.ResultError)
	m.Renewed(lifecycle.ResultRefused)
	m.Requested(lifecycle.OperationRead, lifecycle.ResultOK, 20*time.Millisecond)
	m.Requested(lifecycle.OperationWait, lifecycle.ResultOK, time.Minute)
	m.Restarted(300 * time.Millisecond)
	m.LiveRead("ok", 2)
	m.LiveRead("made up", 2)
	lines := scrape(t, m)
	for _, want := range []string{
		`_rotations_total{cause="lease_maximum",mode="restart",result="ok"} 1`,
		`_rotations_total{cause="unknown",mode="signal",result="error"} 1`,
		`_renewals_total{result="refused"} 1`,
		`_renewals_total{result="ok"} 0`,
		`_server_requests_total{operation="read",result="ok"} 1`,
		`_server_requests_total{operation="wait",result="ok"} 1`,
		`_server_request_duration_seconds_bucket{operation="read",le="0.025"} 1`,
		`_restart_gap_seconds_bucket{le="0.5"} 1`,
		`_live_reads_total{result="ok"} 2`,
		`_live_reads_total{result="stale"} 0`,
	} {
		must.SliceContains(t, lines, namespace+want)
	}
	must.SliceEmpty(t, begins(lines, namespace+`_server_request_duration_seconds_count{operation="wait"}`))
	must.SliceEmpty(t, begins(lines, namespace+"_outage"), must.Sprint("nothing is known yet"))

	var none *Metrics // of a driver that does not count
	none.Restarted(time.Second)
	none.LiveRead("ok", 1)
}

// A first failure is an increase: each series of a counter is there before, and nothing that is counted makes another. The page
// says how many there are.
func TestCountersBeginAtZero(t *testing.T) {
	m := New(hclog.NewNullLogger())
	counters := func() (all []string) {
		for _, l := range scrape(t, m) {
			if name, _, _ := strings.Cut(l, " "); strings.Contains(name, "_total") {
				all = append(all, name)
			}
		}
		return all
	}
	before := counters()
	for _, l := range scrape(t, m) {
		if strings.Contains(l, "_total{") {
			must.StrHasSuffix(t, " 0", l)
		}
	}
	must.SliceContains(t, before, namespace+`_rotations_total{cause="changed",mode="script",result="error"}`)
	must.SliceContains(t, before, namespace+`_server_requests_total{operation="read",result="refused"}`)
	for _, was := range lifecycle.Results() {
		m.Renewed(was)
		for _, what := range pageWords(t, "`operation` is ") {
			m.Requested(lifecycle.RequestKind(what), was, time.Second)
		}
		for _, how := range secrets.Modes() {
			for _, why := range lifecycle.Causes() {
				m.Rotated(why, how, was)
			}
			m.Rotated("of a newer version", how, was)
		}
	}
	must.Eq(t, before, counters())
	must.StrContains(t, monitoringPage(t), fmt.Sprintf("%d series a plugin", len(before)))
}

// Each kind of request and each result is on the page, and no other.
func TestPageHasEachLabelValue(t *testing.T) {
	must.SliceContainsAll(t, pageWords(t, "`operation` is "), wordsOf(lifecycle.Operations()))
	must.SliceContainsAll(t, pageWords(t, "`result` is "), wordsOf(lifecycle.Results()))
}

// pageWords are the words that a paragraph of the page gives for a label, which come after its begin.
func pageWords(t *testing.T, begin string) (words []string) {
	t.Helper()
	_, paragraph, found := strings.Cut(monitoringPage(t), "\n"+begin)
	must.True(t, found)
	paragraph, _, _ = strings.Cut(paragraph, "\n\n")
	for _, word := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(paragraph, -1) {
		words = append(words, word[1])
	}
	return words
}

func wordsOf[T ~string](all []T) (words []string) {
	for _, v := range all {
		words = append(words, string(v))
	}
	return words
}

func monitoringPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/monitoring.md")
	must.NoError(t, err)
	return string(page)
}

// The page has each metric, with its labels, and no other.
func TestPageHasEachMetric(t *testing.T) {
	told := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(nomad_secrets_\\w+)(?:\\{([\\w,]+)\\})?` \\|").FindAllStringSubmatch(monitoringPage(t), -1) {
		labels := strings.Split(row[2], ",")
		slices.Sort(labels)
		told[row[1]+" "+strings.Join(labels, ",")] = true
	}
	m := New(hclog.NewNullLogger())
	m.Requested(lifecycle.OperationRead, lifecycle.ResultOK, 0) // else there is no series of the histogram
	m.Collect("docker", true, func() (lifecycle.Gauges, bool) {
		return lifecycle.Gauges{Tasks: []lifecycle.TaskGauges{task("one", "web", lifecycle.SecretGauge{Name: "db", Expires: later(1), Renews: later(1)})}}, true
	})
	families, err := m.registry.Gather()
	must.NoError(t, err)
	are := map[string]bool{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), namespace) {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		are[f.GetName()+" "+strings.Join(labels, ",")] = true
	}
	must.Eq(t, are, told)
}

// Scrapes are answered until the plugin ends, and all that answers them is joined.
func TestServe(t *testing.T) {
	m := New(hclog.NewNullLogger())
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must.NoError(t, err)
	address := taken.Addr().String()
	must.NoError(t, taken.Close())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.Serve(ctx, address)
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var body string
	for body == "" {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
		must.NoError(t, err)
		res, err := client.Do(req)
		if err != nil {
			continue // it does not listen yet
		}
		b, err := io.ReadAll(res.Body)
		must.NoError(t, errors.Join(err, res.Body.Close()))
		body = string(b)
	}
	must.StrContains(t, body, "nomad_secrets_renewals_total")
	must.StrContains(t, body, "process_resident_memory_bytes")
	stop()
	<-ended
}

// An address that is taken is warned of once, and tried again every 10 s, until it is free or the plugin ends.
func TestListenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := hclog.New(&hclog.LoggerOptions{Output: &out})
		began := time.Now()
		var tries []time.Duration
		free := &fakeListener{}
		open := func(_, address string) (net.Listener, error) {
			must.EqOp(t, "127.0.0.1:9641", address)
			if tries = append(tries, time.Since(began)); len(tries) < 4 {
				return nil, errors.New("address already in use")
			}
			return free, nil
		}
		l, ok := listen(t.Context(), log, "127.0.0.1:9641", open)
		must.True(t, ok)
		must.True(t, l == net.Listener(free))
		must.Eq(t, []time.Duration{0, tryAgain, 2 * tryAgain, 3 * tryAgain}, tries)
		must.EqOp(t, 1, strings.Count(out.String(), "[WARN]"), must.Sprint(out.String()))

		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(25*time.Second, stop)
		_, ok = listen(ctx, log, "127.0.0.1:9641", func(string, string) (net.Listener, error) { return nil, errors.New("in use") })
		must.False(t, ok)
		must.EqOp(t, 55*time.Second, time.Since(began))
	})
}

type fakeListener struct{ net.Listener }
