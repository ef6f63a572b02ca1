package revoke

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/bubble"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

var testTask = journal.Task{Driver: "docker", AllocID: "0c5d6f4e", Name: "web", ID: "0c5d6f4e/web/1", AllocIndex: 2, Dir: "/alloc/web"}

// leaseServer is a server as a Queue sees it: it knows tokens and the leases under them.
type leaseServer struct {
	mu     sync.Mutex
	tokens map[string]tokenRights // by value; what is not here has ended
	leases map[secrets.LeaseID]string
	fail   error // if set, the answer to everything
	calls  []string

	requests bubble.Requests
}

type tokenRights struct{ revokes bool }

var (
	errAway   = secrets.Errorf(secrets.Outage, "connection refused")
	errDenied = secrets.Errorf(secrets.Refused, "permission denied")
)

func newLeaseServer() *leaseServer {
	return &leaseServer{tokens: map[string]tokenRights{}, leases: map[secrets.LeaseID]string{}}
}

func (s *leaseServer) call(ctx context.Context, name string, do func() error) error {
	s.mu.Lock()
	s.calls = append(s.calls, name)
	s.mu.Unlock()
	if err := s.requests.Serve(ctx); err != nil {
		return secrets.Errorf(secrets.Outage, "%w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	return do()
}

func (s *leaseServer) Revoke(ctx context.Context, tok secrets.Token, _ string, id secrets.LeaseID) error {
	return s.call(ctx, "revoke "+string(id)+" with "+tok.Value.Text(), func() error {
		if t, ok := s.tokens[tok.Value.Text()]; !ok || !t.revokes {
			return errDenied
		}
		delete(s.leases, id)
		return nil
	})
}

func (s *leaseServer) RevokeToken(ctx context.Context, tok secrets.Token, _ string) error {
	return s.call(ctx, "revoke token "+tok.Value.Text(), func() error {
		delete(s.tokens, tok.Value.Text())
		for id, under := range s.leases {
			if under == tok.Value.Text() {
				delete(s.leases, id)
			}
		}
		return nil
	})
}

func (s *leaseServer) LookupToken(ctx context.Context, tok secrets.Token, _ string) (secrets.Token, error) {
	return tok, s.call(ctx, "look up "+tok.Value.Text(), func() error {
		if _, ok := s.tokens[tok.Value.Text()]; !ok {
			return secrets.Errorf(secrets.Gone, "the token has ended")
		}
		return nil
	})
}

func (s *leaseServer) answer(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func (s *leaseServer) leasesAlive() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id := range s.leases {
		ids = append(ids, string(id))
	}
	return ids
}

func (s *leaseServer) tokensAlive() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.tokens))
}

// taken gives the calls since it was last asked, sorted.
func (s *leaseServer) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	slices.Sort(calls)
	return calls
}

// queueTest is a state directory, a server and the queue between them.
type queueTest struct {
	t        *testing.T
	stateDir string
	server   *leaseServer
	address  string // the server's
	without  string // a provider that there is not
	*Queue
	mu      sync.Mutex
	refused []error
}

func newQueueTest(t *testing.T) *queueTest {
	o := &queueTest{t: t, stateDir: newStateDir(t), server: newLeaseServer(), address: "https://one"}
	o.restart()
	t.Cleanup(func() { o.Close() })
	return o
}

// restart is what a restart of the plugin does; what is under way is cut off.
func (o *queueTest) restart() {
	if o.Queue != nil {
		o.Close()
	}
	address := o.address
	limiter := limit.New(1, nil)
	var err error
	o.Queue, err = New(Config{
		StateDir: o.stateDir,
		Provider: func(name string) Provider {
			if o.without != "" && name == o.without {
				return Provider{}
			}
			return Provider{Tokens: o.server, Leases: o.server, Server: address}
		},
		Limit: limiter,
		Answered: func(provider string, err error) {
			if err == nil { // as the one who counts requests tells it
				limiter.Answered(provider, limit.Answer{Sent: time.Now()})
			}
		},
		Random: func() float64 { return 0.5 },
		Refused: func(_ journal.Task, _ string, err error) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.refused = append(o.refused, err)
		},
		Log: hclog.NewNullLogger(),
	})
	require.NoError(o.t, err)
}

// task journals a task with a token, whose name is its id and value, and leases under it.
func (o *queueTest) task(src journal.TokenSource, token string, rights tokenRights, leases ...secrets.LeaseID) *journal.Journal {
	j, err := journal.Create(o.stateDir, journal.Entry{Task: testTask, TokenSource: src})
	require.NoError(o.t, err)
	o.token(j, src, token, rights, leases...)
	time.Sleep(time.Minute) // so that the token is beyond doubt
	return j
}

func (o *queueTest) token(j *journal.Journal, src journal.TokenSource, token string, rights tokenRights, leases ...secrets.LeaseID) {
	require.NoError(o.t, j.SaveToken(src, secrets.Token{Value: secrets.TextValue(token), ID: token, Server: o.address}))
	o.server.mu.Lock()
	defer o.server.mu.Unlock()
	o.server.tokens[token] = rights
	for _, id := range leases {
		o.server.leases[id] = token
		require.NoError(o.t, j.AddLease(journal.Lease{ID: id, TokenID: token}))
	}
}

func (o *queueTest) refusals() []error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.refused
}

func (o *queueTest) left() int {
	left, err := os.ReadDir(filepath.Join(o.stateDir, ".owed"))
	require.NoError(o.t, err)
	return len(left)
}
