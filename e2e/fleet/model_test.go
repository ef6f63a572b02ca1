package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// costs are what a request takes of one core of the server. They are measured by TestCalibrate on the real one.
var costs = map[lifecycle.RequestKind]time.Duration{
	lifecycle.OperationLogin:       1900 * time.Microsecond,
	lifecycle.OperationRead:        2600 * time.Microsecond,
	readKV:                         800 * time.Microsecond,
	lifecycle.OperationRenewLease:  1700 * time.Microsecond,
	lifecycle.OperationLookupLease: 900 * time.Microsecond,
	lifecycle.OperationRevokeLease: 2100 * time.Microsecond,
	lifecycle.OperationRenewToken:  1500 * time.Microsecond,
	lifecycle.OperationLookupToken: 900 * time.Microsecond,
	lifecycle.OperationRevokeToken: 2700 * time.Microsecond,
}

const (
	// network is what an answer takes on the way.
	network = time.Millisecond
	// refusal is what a sealed server's answer takes of a core.
	refusal = 50 * time.Microsecond
)

// model is a Vault: a queue before some cores, with the leases and tokens that it has given. What nobody waits for any more
// is worked on all the same.
type model struct {
	cores    float64
	leaseTTL time.Duration

	mu     sync.Mutex
	sealed bool
	starts int       // how often it has been started
	busy   time.Time // until when what has come keeps it busy
	count  int
	tokens map[string]time.Time // by value: until when
	leases map[secrets.LeaseID]*modelLease
}

type modelLease struct {
	token string
	until time.Time
}

func newModel(cores float64, leaseTTL time.Duration) *model {
	return &model{cores: cores, leaseTTL: leaseTTL, tokens: map[string]time.Time{}, leases: map[secrets.LeaseID]*modelLease{}}
}

func (m *model) seal(sealed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sealed = sealed; !sealed {
		m.starts++
		m.busy = time.Now()
	}
}

// queued is how long what has come keeps the server busy.
func (m *model) queued() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(time.Until(m.busy), 0)
}

// serve answers a request when its turn has come; do is run with the lock held.
func (m *model) serve(ctx context.Context, kind lifecycle.RequestKind, do func(now time.Time) error) error {
	m.mu.Lock()
	cost, sealed, starts, now := costs[kind], m.sealed, m.starts, time.Now()
	if sealed {
		cost = refusal
	}
	if m.busy.Before(now) {
		m.busy = now
	}
	m.busy = m.busy.Add(time.Duration(float64(cost) / m.cores))
	took := m.busy.Sub(now) + cost + network
	m.mu.Unlock()
	timer := time.NewTimer(took)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return &secrets.Error{Kind: secrets.Outage, OfServer: true, Err: ctx.Err()}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if sealed || m.sealed || m.starts != starts {
		return &secrets.Error{Kind: secrets.Outage, OfServer: true, Err: errors.New("sealed")}
	}
	return do(time.Now())
}

const tokenTTL = time.Hour

func (m *model) Address() string { return "https://vault" }

func (m *model) knows(now time.Time, tok secrets.Token) error {
	if until, ok := m.tokens[tok.Value.Text()]; !ok || now.After(until) {
		return secrets.Errorf(secrets.Refused, "permission denied")
	}
	return nil
}

func (m *model) Login(ctx context.Context, _ secrets.Login) (tok secrets.Token, err error) {
	err = m.serve(ctx, lifecycle.OperationLogin, func(now time.Time) error {
		m.count++
		value := fmt.Sprint("token-", m.count)
		m.tokens[value] = now.Add(tokenTTL)
		tok = secrets.Token{Value: secrets.TextValue(value), Accessor: "of-" + value, Expires: now.Add(tokenTTL), TTL: tokenTTL, Renewable: true}
		return nil
	})
	return tok, err
}

func (m *model) Read(ctx context.Context, tok secrets.Token, req secrets.Request) (a secrets.Answer, err error) {
	kind := kindOfRead(req)
	err = m.serve(ctx, kind, func(now time.Time) error {
		if err := m.knows(now, tok); err != nil {
			return err
		}
		m.count++
		a.At = now
		if kind == readKV {
			a.Fields = secrets.NewFields(map[string]any{"password": req.Path})
			return nil
		}
		id := secrets.LeaseID(fmt.Sprint(req.Path, "/", m.count))
		m.leases[id] = &modelLease{tok.Value.Text(), now.Add(m.leaseTTL)}
		a.Kind, a.Lease = secrets.Leased, secrets.Lease{ID: id, Duration: m.leaseTTL, Renewable: true}
		a.Fields = secrets.NewFields(map[string]any{"password": fmt.Sprint("p-", m.count)})
		return nil
	})
	return a, err
}

func (m *model) lease(now time.Time, id secrets.LeaseID) (*modelLease, error) {
	l := m.leases[id]
	if l == nil || now.After(l.until) || now.After(m.tokens[l.token]) {
		return nil, secrets.Errorf(secrets.Gone, "no such lease")
	}
	return l, nil
}

func (m *model) Renew(ctx context.Context, _ secrets.Token, _ string, id secrets.LeaseID, d time.Duration) (got secrets.Lease, err error) {
	err = m.serve(ctx, lifecycle.OperationRenewLease, func(now time.Time) error {
		l, err := m.lease(now, id)
		if err == nil {
			l.until = now.Add(d)
			got = secrets.Lease{ID: id, Duration: d, Renewable: true}
		}
		return err
	})
	return got, err
}

func (m *model) LeaseTTL(ctx context.Context, _ secrets.Token, _ string, id secrets.LeaseID) (left time.Duration, err error) {
	err = m.serve(ctx, lifecycle.OperationLookupLease, func(now time.Time) error {
		l, err := m.lease(now, id)
		if err == nil {
			left = l.until.Sub(now)
		}
		return err
	})
	return left, err
}

func (m *model) Revoke(ctx context.Context, _ secrets.Token, _ string, id secrets.LeaseID) error {
	return m.serve(ctx, lifecycle.OperationRevokeLease, func(time.Time) error {
		delete(m.leases, id)
		return nil
	})
}

func (m *model) RenewToken(ctx context.Context, tok secrets.Token, _ string) (secrets.Token, error) {
	err := m.serve(ctx, lifecycle.OperationRenewToken, func(now time.Time) error {
		if m.knows(now, tok) != nil {
			return secrets.Errorf(secrets.Gone, "no such token")
		}
		m.tokens[tok.Value.Text()] = now.Add(tokenTTL)
		tok.Expires, tok.TTL = now.Add(tokenTTL), tokenTTL
		return nil
	})
	return tok, err
}

func (m *model) LookupToken(ctx context.Context, tok secrets.Token, _ string) (secrets.Token, error) {
	err := m.serve(ctx, lifecycle.OperationLookupToken, func(now time.Time) error {
		if m.knows(now, tok) != nil {
			return secrets.Errorf(secrets.Gone, "no such token")
		}
		tok.Expires = m.tokens[tok.Value.Text()]
		return nil
	})
	return tok, err
}

func (m *model) RevokeToken(ctx context.Context, tok secrets.Token, _ string) error {
	return m.serve(ctx, lifecycle.OperationRevokeToken, func(time.Time) error {
		delete(m.tokens, tok.Value.Text())
		return nil
	})
}

// revokeAll is a mass revocation: every lease is gone.
func (m *model) revokeAll() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n = len(m.leases)
	m.leases = map[secrets.LeaseID]*modelLease{}
	return n
}

// alive is how many leases live.
func (m *model) alive() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for id := range m.leases {
		if _, err := m.lease(now, id); err == nil {
			n++
		}
	}
	return n
}
