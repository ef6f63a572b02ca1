package nomadvar

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// fakeNomad answers as Nomad does, with the faults that a test wants. The real one is under test in e2e.
type fakeNomad struct {
	mu      sync.Mutex
	index   uint64 // of all variables
	items   map[string]map[string]string
	at      map[string]uint64 // by "namespace path"
	status  int               // not 0: the answer to everything
	body    string
	asked   []string // "token namespace path"
	changed chan struct{}
}

func newFakeNomad() *fakeNomad {
	return &fakeNomad{index: 10, items: map[string]map[string]string{}, at: map[string]uint64{}, changed: make(chan struct{})}
}

func (f *fakeNomad) with(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeNomad) put(path string, items map[string]string) {
	f.with(func() {
		f.index++
		f.items["team "+path], f.at["team "+path] = items, f.index
	})
}

func (f *fakeNomad) remove(path string) {
	f.with(func() {
		f.index++
		delete(f.items, "team "+path)
	})
}

func (f *fakeNomad) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asked
	f.asked = nil
	return asked
}

func (f *fakeNomad) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	path := strings.TrimPrefix(r.URL.Path, "/v1/var/")
	beyond, _ := strconv.ParseUint(q.Get("index"), 10, 64)
	wait, _ := time.ParseDuration(q.Get("wait"))
	over := time.After(wait)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r.Header.Get("X-Nomad-Token")+" "+q.Get("namespace")+" "+path)
	for {
		if f.status != 0 {
			w.WriteHeader(f.status)
			_, _ = w.Write([]byte(f.body))
			return
		}
		items, ok := f.items[q.Get("namespace")+" "+path]
		index := f.index
		if ok {
			index = f.at[q.Get("namespace")+" "+path]
		}
		changed, ended := f.changed, beyond == 0 || index > beyond
		if !ended {
			f.mu.Unlock()
			select {
			case <-changed:
			case <-over:
				ended = true
			case <-r.Context().Done():
				ended = true
			}
			f.mu.Lock()
			if !ended {
				continue
			}
		}
		w.Header().Set("X-Nomad-Index", strconv.FormatUint(index, 10))
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"Path": path, "Items": items, "ModifyIndex": index})
		return
	}
}

// node is a directory of allocations, short enough for sockets.
type node struct {
	t   *testing.T
	dir string
}

func newNode(t *testing.T) *node {
	dir, err := os.MkdirTemp("/tmp", "nomadvar")
	must.NoError(t, err)
	must.NoError(t, os.Chmod(dir, 0o755)) // for another user's process
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(dir)) })
	return &node{t, dir}
}

// task is one with an identity, and without a socket.
func (n *node) task(alloc, name string) secrets.Task {
	dir := filepath.Join(n.dir, alloc, name)
	for _, sub := range []string{"private", "secrets"} {
		must.NoError(n.t, os.MkdirAll(filepath.Join(dir, sub), 0o777))
	}
	must.NoError(n.t, os.Chmod(filepath.Join(dir, "secrets"), 0o777)) // for the sockets of others
	must.NoError(n.t, os.WriteFile(filepath.Join(dir, DefaultFile), []byte("token-of-"+name+"\n"), 0o600))
	old := time.Now().Add(-time.Minute) // it is not being written
	must.NoError(n.t, os.Chtimes(filepath.Join(dir, DefaultFile), old, old))
	return secrets.Task{Namespace: "team", JobID: "web", Name: name, Dir: dir}
}

// serve makes a task's socket. It is closed by the test, or at its end.
func (n *node) serve(task secrets.Task, h http.Handler) *httptest.Server {
	l, err := net.Listen("unix", filepath.Join(task.Dir, socket))
	must.NoError(n.t, err)
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	n.t.Cleanup(s.Close)
	return s
}

func (n *node) client(cfg Config) *Client {
	c, err := New(cfg)
	must.NoError(n.t, err)
	c.pause = 10 * time.Millisecond
	n.t.Cleanup(c.Close)
	return c
}

func of(task secrets.Task, path string) secrets.Request {
	return secrets.Request{Provider: secrets.NomadProvider, Namespace: task.Namespace, Path: path, Task: task}
}

func text(t *testing.T, a secrets.Answer, field string) string {
	t.Helper()
	v, ok := a.Fields.Lookup(field)
	must.True(t, ok)
	return v.(string)
}
