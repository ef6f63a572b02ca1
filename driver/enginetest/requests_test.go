package enginetest

import (
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/client"
	"github.com/shoenig/test/must"
)

// countedEngine is the engine, at another socket, behind something that remembers what it was asked.
type countedEngine struct {
	endpoint string

	mu    sync.Mutex
	asked []string // method and path, without the API's version
}

var apiVersion = regexp.MustCompile(`^/v[0-9.]+/`)

func countEngine(t *testing.T, engine *client.Client) *countedEngine {
	t.Helper()
	socket := strings.TrimPrefix(engine.DaemonHost(), "unix://")
	c := &countedEngine{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "docker"})
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	proxy.Transport, proxy.FlushInterval = transport, -1
	path := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	must.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.asked = append(c.asked, r.Method+" "+apiVersion.ReplaceAllString(r.URL.Path, "/"))
		c.mu.Unlock()
		proxy.ServeHTTP(w, r)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		must.ErrorIs(t, <-served, http.ErrServerClosed)
		transport.CloseIdleConnections()
	})
	c.endpoint = "unix://" + path
	return c
}

// inspects is how often containers and images were inspected since the last time.
func (c *countedEngine) inspects() (containers, images int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, asked := range c.asked {
		switch {
		case !strings.HasPrefix(asked, "GET ") || !strings.HasSuffix(asked, "/json"):
		case strings.HasPrefix(asked, "GET /containers/") && asked != "GET /containers/json":
			containers++
		case strings.HasPrefix(asked, "GET /images/") && asked != "GET /images/json":
			images++
		}
	}
	c.asked = nil
	return containers, images
}

// A start with secrets asks the engine two things more than one without: what is left of an earlier start, and which process waits. What it
// knows of the image, and which version of the API the engine speaks, it asks once for all starts.
func TestEngineIsAskedLittle(t *testing.T) {
	image := busyboxImage(t)
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	must.NoError(t, err)
	t.Cleanup(func() { _ = engine.Close() })
	counted := countEngine(t, engine)
	a := pluginOn(t, engine, counted.endpoint)
	secret := map[string]any{
		"secret": map[string]any{"app": map[string]any{"path": "secret/app", "env": []map[string]string{{"CONTENT": "content"}}}},
	}
	asked := func(options map[string]any) (containers, images int) {
		counted.inspects()
		_, _, err := a.StartTask(a.taskConfig(image, "none", options))
		must.NoError(t, err)
		return counted.inspects()
	}
	containers, images := asked(nil)
	_, firstImages := asked(secret)
	must.Eq(t, images+1, firstImages)
	for range 2 {
		withContainers, withImages := asked(secret)
		must.Eq(t, containers+2, withContainers)
		must.Eq(t, images, withImages)
	}
}
