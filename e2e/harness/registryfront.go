package harness

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
)

// RegistryFront stands before a registry and decides by itself who may pull: as registries do whose users are in another
// place.
type RegistryFront struct {
	Addr string // host:port, the first part of its images' names

	registry *Registry
	server   *httptest.Server
}

// Front starts one. Each request with a login is allowed or not by what allow says of it. It is closed by Close.
func (r *Registry) Front(allow func(ctx context.Context, user, password, path string) bool) *RegistryFront {
	f := &RegistryFront{registry: r}
	forward := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(&url.URL{Scheme: "http", Host: r.Addr})
		p.Out.Host = p.In.Host // the registry makes its links of it
		p.Out.SetBasicAuth(r.User, r.Password)
	}}
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		user, password, given := req.BasicAuth()
		if !given || !allow(req.Context(), user, password, req.URL.Path) {
			w.Header().Set("WWW-Authenticate", `Basic realm="front"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		forward.ServeHTTP(w, req)
	}))
	f.Addr = strings.TrimPrefix(f.server.URL, "http://")
	return f
}

// Name is the name by which an image of the registry behind is pulled from here.
func (f *RegistryFront) Name(image string) (string, error) {
	name, ok := strings.CutPrefix(image, f.registry.Addr)
	if !ok {
		return "", errors.New(image + " is not an image of this registry")
	}
	f.registry.pushed = append(f.registry.pushed, f.Addr+name)
	return f.Addr + name, nil
}

// Close ends it.
func (f *RegistryFront) Close() { f.server.Close() }
