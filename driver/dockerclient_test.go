package driver

import (
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
)

// Starts share a client until one fails with it: then what the engine speaks, and what it has, is asked again.
func TestStartsShareAClient(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	version := "1.41"
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.Path)
		w.Header().Set("Api-Version", version)
		if path.Base(r.URL.Path) == "json" {
			_, _ = w.Write([]byte(`{"Id": "sha256:1", "Config": {"Entrypoint": ["/app"], "Cmd": ["run"]}}`))
		}
	}))
	defer engine.Close()
	sinceLast := func() []string {
		mu.Lock()
		defer mu.Unlock()
		all := asked
		asked = nil
		return all
	}
	var s startClient
	defer s.close()
	endpoint := dockerEndpoint{host: "tcp://" + strings.TrimPrefix(engine.URL, "http://")}
	start := func() {
		c, err := s.get(t.Context(), endpoint)
		must.NoError(t, err)
		image, err := s.image(t.Context(), c, "sha256:1")
		must.NoError(t, err)
		must.Eq(t, launcher.ImageConfig{Entrypoint: []string{"/app"}, Cmd: []string{"run"}}, image)
	}
	start()
	must.Eq(t, []string{"/_ping", "/v1.41/images/sha256:1/json"}, sinceLast())
	start()
	must.SliceEmpty(t, sinceLast())

	// The engine is another one now.
	c, err := s.get(t.Context(), endpoint)
	must.NoError(t, err)
	mu.Lock()
	version = "1.43"
	mu.Unlock()
	s.failed(c)
	start()
	must.Eq(t, []string{"/_ping", "/v1.43/images/sha256:1/json"}, sinceLast())
	s.failed(c) // a start that began with the one before
	start()
	must.SliceEmpty(t, sinceLast())
}
