package harness

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// HAProxy is a load balancer before HTTP servers. It sends requests to those that say at /health that they are well, and
// tries none twice.
type HAProxy struct {
	Addr string // a URL

	stats string
	proc  *process
}

const haproxyConfig = `global
  maxconn 1000
defaults
  mode http
  retries 0
  option http-server-close
  timeout connect 1m
  timeout client 5m
  timeout server 5m
  timeout check 1m
frontend clients
  bind 127.0.0.1:%[1]d
  default_backend servers
frontend stats
  bind 127.0.0.1:%[2]d
  stats enable
  stats uri /stats
backend servers
  balance roundrobin
  option httpchk GET /health
  http-check expect status 200
  default-server check inter 300ms fall 1 rise 1
%[3]s`

func startHAProxy(ctx context.Context, dir string, servers []string) (*HAProxy, error) {
	bin, err := tool("haproxy", "haproxy")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	statsPort, err := freePort()
	if err != nil {
		return nil, err
	}
	var lines strings.Builder
	for i, addr := range servers {
		fmt.Fprintf(&lines, "  server s%d %s\n", i, addr)
	}
	config := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(config, fmt.Appendf(nil, haproxyConfig, port, statsPort, lines.String()), 0o600); err != nil {
		return nil, err
	}
	h := &HAProxy{Addr: fmt.Sprintf("http://127.0.0.1:%d", port), stats: fmt.Sprintf("http://127.0.0.1:%d/stats;csv", statsPort)}
	if h.proc, err = startProcess("haproxy", filepath.Join(dir, "haproxy.log"), nil, bin, "-db", "-f", config); err != nil {
		return nil, err
	}
	return h, Until(ctx, "HAProxy to have all servers", func() error {
		if err := h.proc.alive(); err != nil {
			return err
		}
		up, err := h.Up(ctx)
		if err == nil && up != len(servers) {
			err = fmt.Errorf("%d of %d are up", up, len(servers))
		}
		return err
	})
}

// Close ends it.
func (h *HAProxy) Close() { h.proc.stop(syscall.SIGTERM, 10*time.Second) }

// Up is how many servers it sends requests to.
func (h *HAProxy) Up(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.stats, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	rows := csv.NewReader(resp.Body)
	rows.FieldsPerRecord = -1
	head, err := rows.Read()
	if err != nil {
		return 0, err
	}
	status := -1
	for i, name := range head {
		if name == "status" {
			status = i
		}
	}
	for up := 0; ; {
		row, err := rows.Read()
		switch {
		case errors.Is(err, io.EOF):
			return up, nil
		case err != nil:
			return 0, err
		case status < 0 || len(row) <= status:
			return 0, fmt.Errorf("its statistics have no status: %q", row)
		case row[0] == "servers" && row[1] != "BACKEND" && row[status] == "UP":
			up++
		}
	}
}
