package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// FreeAddress is an address of this machine at which nobody listens.
func FreeAddress() (string, error) {
	port, err := freePort()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// Prometheus is a real one, Debian's.
type Prometheus struct {
	addr string
	proc *process
}

// StartPrometheus starts a Prometheus with this configuration. It keeps what it has scraped in dir. The caller stops it.
func StartPrometheus(ctx context.Context, dir, config string) (*Prometheus, error) {
	bin, err := tool("prometheus", "prometheus")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	p := &Prometheus{}
	if p.addr, err = FreeAddress(); err != nil {
		return nil, err
	}
	p.proc, err = startProcess("prometheus", filepath.Join(dir, "prometheus.log"), nil, bin,
		"--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.addr)
	if err != nil {
		return nil, err
	}
	err = Until(ctx, "Prometheus to be ready", func() error {
		if err := p.proc.alive(); err != nil {
			return err
		}
		_, err := HTTPGet(ctx, "http://"+p.addr+"/-/ready")
		return err
	})
	if err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// Stop ends it.
func (p *Prometheus) Stop() { p.proc.stop(syscall.SIGTERM, 20*time.Second) }

// HTTPGet is the body of an answer 200.
func HTTPGet(ctx context.Context, address string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", address, res.Status, body)
	}
	return string(body), err
}

func (p *Prometheus) api(ctx context.Context, path string, data any) error {
	body, err := HTTPGet(ctx, "http://"+p.addr+"/api/v1/"+path)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(body), &struct{ Data any }{data})
}

// Sample is one element of the answer to a query.
type Sample struct {
	Labels map[string]string
	Value  string
}

// Query evaluates an expression now.
func (p *Prometheus) Query(ctx context.Context, expr string) ([]Sample, error) {
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	if err := p.api(ctx, "query?query="+url.QueryEscape(expr), &data); err != nil {
		return nil, err
	}
	var all []Sample
	for _, r := range data.Result {
		all = append(all, Sample{r.Metric, fmt.Sprint(r.Value[1])})
	}
	return all, nil
}

// Alert is one that is pending or firing.
type Alert struct {
	Labels      map[string]string
	Annotations map[string]string
	State       string
	ActiveAt    time.Time
}

// Firing are the alerts of this name that fire.
func (p *Prometheus) Firing(ctx context.Context, name string) ([]Alert, error) {
	return p.alerts(ctx, name, "firing")
}

// Pending are those that fire if it goes on for as long as their rule wants.
func (p *Prometheus) Pending(ctx context.Context, name string) ([]Alert, error) {
	return p.alerts(ctx, name, "pending")
}

func (p *Prometheus) alerts(ctx context.Context, name, state string) ([]Alert, error) {
	var data struct{ Alerts []Alert }
	if err := p.api(ctx, "alerts", &data); err != nil {
		return nil, err
	}
	var found []Alert
	for _, a := range data.Alerts {
		if a.Labels["alertname"] == name && a.State == state {
			found = append(found, a)
		}
	}
	return found, nil
}

// Scraped is nil once each of n targets was scraped without an error.
func (p *Prometheus) Scraped(ctx context.Context, n int) error {
	var data struct {
		ActiveTargets []struct{ ScrapeURL, Health, LastError string }
	}
	if err := p.api(ctx, "targets", &data); err != nil {
		return err
	}
	if len(data.ActiveTargets) != n {
		return fmt.Errorf("there are %d targets", len(data.ActiveTargets))
	}
	var errs []error
	for _, t := range data.ActiveTargets {
		if t.Health != "up" || t.LastError != "" {
			errs = append(errs, fmt.Errorf("%s is %s: %s", t.ScrapeURL, t.Health, t.LastError))
		}
	}
	return errors.Join(errs...)
}
