package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
)

// A real Prometheus, configured as docs/monitoring.md says, scrapes both plugins. Two allocations of one group on a node are
// one series and no error, those of two versions of a job too. An alert fires before a credential ends that is neither renewed nor
// replaced, and at the first script that fails; cert-manager's expiry alert is about the one secret that ends soon.
func TestMetrics(t *testing.T) {
	t.Parallel()
	addresses := map[string]string{}
	for _, driver := range []string{"docker", "raw_exec"} {
		address, err := harness.FreeAddress()
		require.NoError(t, err)
		addresses[driver] = address
	}
	l := newOwnLab(t, harness.AgentOptions{Name: "metrics", Placement: placement, Metrics: addresses}, 5*time.Minute)
	prometheus := startPrometheus(l, addresses["docker"], addresses["raw_exec"])

	const life = 36 * time.Second
	require.NoError(t, l.Vault.EnableDatabase(l.Ctx, "database", l.MariaDB))
	require.NoError(t, l.Vault.DatabaseRole(l.Ctx, "database", "metrics", life, life))
	require.NoError(t, l.Vault.EnablePKI(l.Ctx, "metrics-pki", "web"))
	kv := l.NewKV(2, "metrics")
	kv.PutColour("blue")
	mayNot := `path "metrics/data/app" { capabilities = ["read"] }
		path "metrics/data/script" { capabilities = ["read"] }
		path "metrics-pki/issue/web" { capabilities = ["update"] }`
	require.NoError(t, l.Vault.Policy(l.Ctx, "metrics", mayNot+`
		path "database/creds/metrics" { capabilities = ["read"] }`))

	leased := l.Submit(lab.Job{
		ID: "metrics-leased", Driver: "raw_exec", Role: "metrics", Count: 2, Run: []string{"testapp", "sleep"},
		Task: `env { COLOUR = "red" }`,
		Config: `secret "db" {
				path        = "database/creds/metrics"
				env         = { DB_USER = "username", DB_PASSWORD = "password" }
				change_mode = "noop"
			}
			secret "app" {
				path = "metrics/app"
				env  = { COLOUR = "colour" }
			}`,
	}.HCL())
	issued := l.Submit(lab.Job{
		ID: "metrics-issued", Driver: "docker", Role: "metrics", Run: []string{"testapp", "sleep"},
		Config: `secret "tls" {
				path   = "metrics-pki/issue/web"
				params = { common_name = "web.example.com", ttl = "24h" }
				files  = true
			}`,
	}.HCL())
	allocs, err := leased.AllRunning(l.Ctx, 2)
	require.NoError(t, err)
	require.NoError(t, l.Vault.Policy(l.Ctx, "metrics", mayNot)) // what has been fetched lives on to its end
	_, err = issued.Running(l.Ctx)
	require.NoError(t, err)

	// What a start says.
	l.Events(allocs[0], 1, "Secrets: app from metrics/app: COLOUR; db from database/creds/metrics (lease 36s): DB_PASSWORD, DB_USER")
	l.Events(allocs[0], 1, `Secrets: these variables of the job are replaced by secrets: COLOUR (secret "app")`)

	one := func(expr string) harness.Sample { t.Helper(); return oneSample(l, prometheus, expr) }
	const ofDB = `{driver="raw_exec",namespace="default",job="metrics-leased",group="g",task="app",secret="db"}`
	require.Equal(t, "1", one("nomad_secrets_ready"+ofDB).Value)
	ends := one("nomad_secrets_expiration_timestamp_seconds" + ofDB)
	one(`nomad_secrets_ready{driver="raw_exec",job="metrics-leased",secret="app"} == 1`)
	one(`nomad_secrets_ready{driver="docker",job="metrics-issued",secret="tls"} == 1`)
	one(`nomad_secrets_expiration_timestamp_seconds{job="metrics-issued",secret="tls"} - time() > 23 * 3600`)
	endless, err := prometheus.Query(l.Ctx, `{__name__=~"nomad_secrets_(expiration|renewal)_timestamp_seconds",secret="app"}`)
	require.NoError(t, err)
	require.Empty(t, endless, "a KV secret does not end")
	require.NoError(t, prometheus.Scraped(l.Ctx, 2))

	certManager := one(certManagerRule(t, "21 * 24 * 3600", "3600"))
	require.Equal(t, map[string]string{"namespace": "default", "job": "metrics-leased", "task": "app", "secret": "db"}, certManager.Labels,
		"not that of a day, which would hide it in an average")

	var alert harness.Alert
	l.Until("the alert about the database's credential", func() error {
		firing, err := prometheus.Firing(l.Ctx, "NomadSecretNotRenewed")
		if err == nil && len(firing) == 0 {
			err = errors.New("it does not fire")
		}
		if err != nil {
			return err
		}
		alert = firing[0]
		return nil
	})
	require.Equal(t, "db", alert.Labels["secret"])
	require.Equal(t, "metrics-leased", alert.Labels["job"])
	require.Contains(t, alert.Annotations["summary"], "Secret db of metrics-leased/g/app is not renewed and ends in ")
	end, err := strconv.ParseFloat(ends.Value, 64)
	require.NoError(t, err)
	require.Less(t, float64(alert.ActiveAt.UnixMilli())/1000, end, "only when the credential had ended")
	one(`nomad_secrets_rotations_total{cause="lease_maximum",mode="noop",result="refused"} > 0`)
	one("nomad_secrets_ready" + ofDB + " == 0")

	firstFailureIsSeen(l, prometheus)
	overlapIsScraped(l, prometheus, addresses["docker"])
	for _, address := range addresses {
		checkScrape(l, address)
	}
	dashboardWorks(l, prometheus)
}

// oneSample waits until there is a series, and asserts that there is one only.
func oneSample(l *lab.Lab, prometheus *harness.Prometheus, expr string) harness.Sample {
	l.T.Helper()
	var found []harness.Sample
	l.Until(expr, func() (err error) {
		if found, err = prometheus.Query(l.Ctx, expr); err == nil && len(found) == 0 {
			err = errors.New("nothing")
		}
		return err
	})
	require.Len(l.T, found, 1, expr)
	return found[0]
}

// certManagerRule is the expression of the page's rule, with another threshold.
func certManagerRule(t *testing.T, threshold, with string) string {
	t.Helper()
	rules, err := os.ReadFile(filepath.Join(repoRoot(t), "docs/monitoring/cert-manager.yml"))
	require.NoError(t, err)
	_, expr, found := strings.Cut(string(rules), "expr: |\n")
	require.True(t, found)
	expr, _, found = strings.Cut(expr, "for:")
	require.True(t, found)
	require.Contains(t, expr, threshold)
	return strings.ReplaceAll(expr, threshold, with)
}

// startPrometheus starts one as the page says, which looks each second.
func startPrometheus(l *lab.Lab, targets ...string) *harness.Prometheus {
	t := l.T
	t.Helper()
	page := monitoringPage(t)
	_, config, found := strings.Cut(page, "```yaml\n")
	require.True(t, found)
	config, _, _ = strings.Cut(config, "```")
	for said, is := range map[string]string{
		`["127.0.0.1:9641", "127.0.0.1:9642"]`: fmt.Sprintf("[%q, %q]", targets[0], targets[1]),
		"- alerts.yml":                         "- " + filepath.Join(repoRoot(t), "docs/monitoring/alerts.yml"),
	} {
		require.Contains(t, config, said)
		config = strings.ReplaceAll(config, said, is)
	}
	p, err := harness.StartPrometheus(l.Ctx, t.TempDir(), "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n"+config)
	require.NoError(t, err)
	t.Cleanup(p.Stop)
	return p
}

// checkScrape asserts that promtool finds nothing to object to, and that nothing of the secrets server is in a label.
func checkScrape(l *lab.Lab, address string) {
	l.T.Helper()
	text, err := harness.HTTPGet(l.Ctx, "http://"+address+"/metrics")
	require.NoError(l.T, err)
	for _, never := range []string{"database/creds", "metrics-pki", "hvs.", "v-jwt"} {
		require.NotContains(l.T, text, never)
	}
	check := exec.CommandContext(l.Ctx, "promtool", "check", "metrics")
	check.Stdin = strings.NewReader(text)
	out, err := check.CombinedOutput()
	require.NoError(l.T, err, "%s", out)
}

// dashboardWorks asserts that each expression of the dashboard is one, and names metrics that there are.
func dashboardWorks(l *lab.Lab, prometheus *harness.Prometheus) {
	l.T.Helper()
	file, err := os.ReadFile(filepath.Join(repoRoot(l.T), "docs/monitoring/dashboard.json"))
	require.NoError(l.T, err)
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	require.NoError(l.T, json.Unmarshal(file, &dashboard))
	require.NotEmpty(l.T, dashboard.Panels)
	for _, p := range dashboard.Panels {
		require.NotEmpty(l.T, p.Targets, p.Title)
		for _, target := range p.Targets {
			expr := strings.ReplaceAll(target.Expr, "$__rate_interval", "1m")
			expr = regexp.MustCompile(`"\$\w+"`).ReplaceAllString(expr, `".*"`)
			_, err := prometheus.Query(l.Ctx, expr)
			require.NoError(l.T, err, "%s: %s", p.Title, expr)
			for _, metric := range regexp.MustCompile(`\b(nomad_secrets|process|go)_\w+`).FindAllString(expr, -1) {
				found, err := prometheus.Query(l.Ctx, "count("+metric+")")
				require.NoError(l.T, err)
				require.NotEmpty(l.T, found, "%s: %s", p.Title, metric)
			}
		}
	}
}

// The alert rules, and their tests, as the page has them checked.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	_, block, found := strings.Cut(monitoringPage(t), "```sh\n")
	require.True(t, found)
	block, _, _ = strings.Cut(block, "```")
	require.Contains(t, block, "promtool test rules")
	for line := range strings.Lines(block) {
		sh := exec.CommandContext(t.Context(), "sh", "-ec", line)
		sh.Dir = repoRoot(t)
		out, err := sh.CombinedOutput()
		require.NoError(t, err, "%s%s", line, out)
	}
}

func monitoringPage(t testing.TB) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(repoRoot(t), "docs/monitoring.md"))
	require.NoError(t, err)
	return string(page)
}

func repoRoot(t testing.TB) string {
	t.Helper()
	root, err := harness.RepoRoot()
	require.NoError(t, err)
	return root
}
