package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// fakeVault is a secrets server whose faults come on demand. It knows what a real one knows: tokens,
// their leases, and when they end.
type fakeVault struct {
	address string
	mu      sync.Mutex
	away    error                     // the answer to everything
	fail    map[string]error          // by "call path", by "call id" or by call: the answer to that
	static  map[string]map[string]any // by path
	roles   map[string]fakeRole       // by path: what makes credentials
	tokens  map[string]*fakeToken     // by value
	leases  map[secrets.LeaseID]*fakeLease
	login   fakeRole // of the tokens that logins give
	delay   time.Duration
	slow    map[string]time.Duration // by "call path": how long that takes
	count   int
	asked   int // calls, those in vain, too
	calls   []string
	params  []map[string]string     // of the reads that had some
	sent    func()                  // called for every call that is answered
	tenants map[limit.Tenant]string // whose calls there were, with the first of each (C11)
}

type fakeRole struct {
	ttl, max   time.Duration
	fixed      bool          // not renewable
	batch      bool          // of a login: its tokens are batch tokens
	issued     time.Duration // not 0: a certificate of that life, without a lease
	extraField string
}

type fakeToken struct {
	until, max time.Time
	role       fakeRole
}

type fakeLease struct {
	path       string
	token      string
	until, max time.Time
}

func newFakeVault() *fakeVault {
	return &fakeVault{
		address: "https://vault",
		fail:    map[string]error{}, static: map[string]map[string]any{}, roles: map[string]fakeRole{},
		tokens: map[string]*fakeToken{}, leases: map[secrets.LeaseID]*fakeLease{},
		login:   fakeRole{ttl: time.Hour, max: 1000 * time.Hour},
		tenants: map[limit.Tenant]string{},
	}
}

// call notes a call and gives its fault; the lock is held when it returns.
func (v *fakeVault) call(ctx context.Context, name, what string) error {
	v.mu.Lock()
	delay := max(v.delay, v.slow[name+" "+what])
	v.mu.Unlock()
	if delay > 0 {
		wait(ctx, delay)
	}
	v.mu.Lock()
	if err := ctx.Err(); err != nil {
		return secrets.Errorf(secrets.Outage, "%s %s: %w", name, what, err)
	}
	v.asked++
	if who := limit.TenantIn(ctx).At(""); v.tenants[who] == "" {
		v.tenants[who] = name + " " + what
	}
	if v.away != nil {
		return v.away
	}
	v.calls = append(v.calls, name+" "+what)
	if v.sent != nil {
		v.sent()
	}
	for _, key := range []string{name + " " + what, name} {
		if err := v.fail[key]; err != nil {
			return err
		}
	}
	return nil
}

func (v *fakeVault) knows(tok secrets.Token) error {
	t := v.tokens[tok.Value.Text()]
	if t == nil || !t.until.IsZero() && time.Now().After(t.until) {
		return secrets.Errorf(secrets.Refused, "permission denied")
	}
	return nil
}

func (v *fakeVault) Read(ctx context.Context, tok secrets.Token, req secrets.Request) (secrets.Answer, error) {
	err := v.call(ctx, "read", req.Path)
	defer v.mu.Unlock()
	if err == nil {
		err = v.knows(tok)
	}
	if req.Params != nil {
		v.params = append(v.params, req.Params)
	}
	if err != nil {
		return secrets.Answer{}, fmt.Errorf("read %s: %w", req.Path, err)
	}
	now := time.Now()
	if m, ok := v.static[tok.Value.Text()+":"+req.Path]; ok { // the token's own
		return secrets.Answer{Kind: secrets.Static, Own: true, Fields: secrets.NewFields(maps.Clone(m)), At: now}, nil
	}
	if m, ok := v.static[req.Path]; ok {
		return secrets.Answer{Kind: secrets.Static, Fields: secrets.NewFields(maps.Clone(m)), Settings: []string{"rotation_period"}, At: now}, nil
	}
	role, ok := v.roles[req.Path]
	if !ok {
		return secrets.Answer{}, secrets.Errorf(secrets.NotFound, "read %s: nothing is there", req.Path)
	}
	v.count++
	fields := map[string]any{"username": fmt.Sprintf("user-%d", v.count), "password": fmt.Sprintf("pass-%d", v.count)}
	if role.extraField != "" {
		fields = map[string]any{role.extraField: "x"}
	}
	a := secrets.Answer{Kind: secrets.Leased, Fields: secrets.NewFields(fields), At: now}
	if role.issued > 0 {
		a.Kind, a.Ends = secrets.Issued, now.Add(role.issued)
		return a, nil
	}
	id := secrets.LeaseID(fmt.Sprintf("%s/%d", req.Path, v.count))
	l := &fakeLease{path: req.Path, token: tok.Value.Text(), until: now.Add(role.ttl), max: now.Add(role.max)}
	if t := v.tokens[l.token]; t.role.batch && l.max.After(t.until) {
		l.max = t.until
		l.until = earliest(l.until, l.max)
	}
	v.leases[id] = l
	a.Lease = secrets.Lease{ID: id, Duration: l.until.Sub(now).Truncate(time.Second), Renewable: !role.fixed}
	return a, nil
}

func (v *fakeVault) alive(id secrets.LeaseID) *fakeLease {
	l := v.leases[id]
	if l == nil || time.Now().After(l.until) || v.knows(secrets.Token{Value: secrets.TextValue(l.token)}) != nil {
		return nil
	}
	return l
}

var errGone = secrets.Errorf(secrets.Gone, "lease not found")

func (v *fakeVault) Renew(ctx context.Context, tok secrets.Token, _ string, id secrets.LeaseID, d time.Duration) (secrets.Lease, error) {
	err := v.call(ctx, "renew", string(id))
	defer v.mu.Unlock()
	if err == nil {
		err = v.knows(tok)
	}
	if err != nil {
		return secrets.Lease{}, err
	}
	l := v.alive(id)
	if l == nil {
		return secrets.Lease{}, errGone
	}
	now := time.Now()
	l.until = now.Add(d)
	if l.until.After(l.max) {
		l.until = l.max
	}
	return secrets.Lease{ID: id, Duration: l.until.Sub(now), Renewable: true}, nil
}

func (v *fakeVault) LeaseTTL(ctx context.Context, tok secrets.Token, _ string, id secrets.LeaseID) (time.Duration, error) {
	err := v.call(ctx, "check", string(id))
	defer v.mu.Unlock()
	if err == nil {
		err = v.knows(tok)
	}
	if err != nil {
		return 0, err
	}
	l := v.alive(id)
	if l == nil {
		return 0, errGone
	}
	return time.Until(l.until), nil
}

func (v *fakeVault) Revoke(ctx context.Context, tok secrets.Token, _ string, id secrets.LeaseID) error {
	err := v.call(ctx, "revoke", string(id))
	defer v.mu.Unlock()
	if err == nil {
		err = v.knows(tok)
	}
	if err == nil {
		delete(v.leases, id)
	}
	return err
}

func (v *fakeVault) newToken(role fakeRole) (secrets.Token, *fakeToken) {
	v.count++
	now := time.Now()
	value := fmt.Sprintf("token-%d", v.count)
	t := &fakeToken{until: now.Add(role.ttl), max: now.Add(role.max), role: role}
	v.tokens[value] = t
	if role.batch {
		return secrets.Token{Value: secrets.TextValue(value), Batch: true, Expires: t.until, TTL: role.ttl}, t
	}
	return secrets.Token{Value: secrets.TextValue(value), Accessor: "accessor-of-" + value, Expires: t.until, TTL: role.ttl, Renewable: true}, t
}

func (v *fakeVault) Login(ctx context.Context, in secrets.Login) (secrets.Token, error) {
	err := v.call(ctx, "login", in.Role)
	defer v.mu.Unlock()
	if err != nil {
		return secrets.Token{}, err
	}
	tok, _ := v.newToken(v.login)
	return tok, nil
}

func (v *fakeVault) RenewToken(ctx context.Context, tok secrets.Token, _ string) (secrets.Token, error) {
	err := v.call(ctx, "renew-token", tok.Value.Text())
	defer v.mu.Unlock()
	if err != nil {
		return secrets.Token{}, err
	}
	if v.knows(tok) != nil {
		return secrets.Token{}, secrets.Errorf(secrets.Gone, "no such token")
	}
	t, now := v.tokens[tok.Value.Text()], time.Now()
	t.until = now.Add(t.role.ttl)
	if t.until.After(t.max) {
		t.until = t.max
	}
	tok.Expires, tok.TTL = t.until, t.until.Sub(now)
	return tok, nil
}

func (v *fakeVault) LookupToken(ctx context.Context, tok secrets.Token, _ string) (secrets.Token, error) {
	err := v.call(ctx, "lookup", tok.Value.Text())
	defer v.mu.Unlock()
	if err != nil {
		return secrets.Token{}, err
	}
	if v.knows(tok) != nil {
		return secrets.Token{}, secrets.Errorf(secrets.Gone, "no such token")
	}
	tok.Expires = v.tokens[tok.Value.Text()].until
	return tok, nil
}

func (v *fakeVault) Address() string { return v.address }

func (v *fakeVault) RevokeToken(ctx context.Context, tok secrets.Token, _ string) error {
	err := v.call(ctx, "revoke-token", tok.Value.Text())
	defer v.mu.Unlock()
	if t := v.tokens[tok.Value.Text()]; err == nil && t != nil && t.role.batch {
		return secrets.Errorf(secrets.Invalid, "batch tokens cannot be revoked")
	}
	if err == nil {
		delete(v.tokens, tok.Value.Text())
	}
	return err
}

// with runs f with the server's state locked.
func (v *fakeVault) with(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f()
}

func (v *fakeVault) set(err error) { v.with(func() { v.away = err }) }

// count how many calls began so.
func (v *fakeVault) called(prefix string) (n int) {
	v.with(func() {
		for _, c := range v.calls {
			if strings.HasPrefix(c, prefix) {
				n++
			}
		}
	})
	return n
}

// live are the leases of a path that are alive, sorted.
func (v *fakeVault) live(path string) (ids []string) {
	v.with(func() {
		for id, l := range v.leases {
			if l.path == path && v.alive(id) != nil {
				ids = append(ids, string(id))
			}
		}
	})
	slices.Sort(ids)
	return ids
}

func (v *fakeVault) liveTokens() (n int) {
	v.with(func() {
		for value := range v.tokens {
			if v.knows(secrets.Token{Value: secrets.TextValue(value)}) == nil {
				n++
			}
		}
	})
	return n
}
