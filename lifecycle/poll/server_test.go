package poll

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/bubble"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const testInterval = 10 * time.Second

// kvServer is a server as polls see it: an answer a path, and the tokens that are good.
type kvServer struct {
	mu      sync.Mutex
	content map[string]string
	kind    secrets.Kind
	refuse  map[string]error // by token
	fail    error
	changes func(now time.Time) time.Time // what is said of the next change
	reads   []kvRead

	requests bubble.Requests
}

type kvRead struct {
	path, token string
	at          time.Time
}

func (s *kvServer) read(ctx context.Context, tok secrets.Token, req secrets.Request) (secrets.Answer, error) {
	s.mu.Lock()
	s.reads = append(s.reads, kvRead{req.Path, tok.Value.Text(), time.Now()})
	s.mu.Unlock()
	if err := s.requests.Serve(ctx); err != nil {
		return secrets.Answer{}, secrets.Errorf(secrets.Outage, "%w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return secrets.Answer{}, s.fail
	}
	if err := s.refuse[tok.Value.Text()]; err != nil {
		return secrets.Answer{}, err
	}
	var changes time.Time
	if s.changes != nil {
		changes = s.changes(time.Now())
	}
	content, ok := s.content[req.Path]
	if !ok {
		return secrets.Answer{}, secrets.Errorf(secrets.NotFound, "nothing at %s", req.Path)
	}
	return secrets.Answer{Kind: s.kind, Fields: secrets.NewFields(map[string]any{"v": content}), Changes: changes}, nil
}

// set changes the server under its lock.
func (s *kvServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// taken gives the reads since it was last asked.
func (s *kvServer) taken() []kvRead {
	s.mu.Lock()
	defer s.mu.Unlock()
	reads := s.reads
	s.reads = nil
	return reads
}

// polling is a poller on a kvServer.
type polling struct {
	*Poller
	server *kvServer
}

func newPolling(t *testing.T, rate float64) *polling {
	s := &kvServer{content: map[string]string{}, refuse: map[string]error{}}
	p := &polling{server: s}
	var mu sync.Mutex
	state := uint32(1)
	p.Poller = New(Config{
		Read:     s.read,
		Limit:    limit.New(rate, nil),
		Interval: testInterval,
		Digest:   func(f secrets.Fields) string { v, _ := f.Lookup("v"); return v.(string) },
		Random: func() float64 { // the same in every run
			mu.Lock()
			defer mu.Unlock()
			state = state*1664525 + 1013904223
			return float64(state>>8) / (1 << 24)
		},
		Log: hclog.NewNullLogger(),
	})
	t.Cleanup(p.Close)
	return p
}

// watcher is a subscriber that counts its notifications.
type watcher struct {
	*Subscription
	mu       sync.Mutex
	notified int
	lastAt   time.Time
}

func (p *polling) watch(path, token, seen string) *watcher {
	w := &watcher{}
	w.Subscription = p.Subscribe(Key{Path: path}, Subscriber{
		Token:  func() (secrets.Token, bool) { return secrets.Token{Value: secrets.TextValue(token)}, token != "" },
		Seen:   seen,
		Notify: w.notify,
	})
	return w
}

func (w *watcher) notify() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notified++
	w.lastAt = time.Now()
}

// count is how often it was notified since it was last asked.
func (w *watcher) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.notified
	w.notified = 0
	return n
}
