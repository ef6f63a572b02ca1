package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

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
	calls   []string
	params  []map[string]string // of the reads that had some
	sent    func()              // called for every call that is answered
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
	role       fakeRole
}

func newFakeVault() *fakeVault {
	return &fakeVault{
		address: "https://vault",
		fail:    map[string]error{}, static: map[string]map[string]any{}, roles: map[string]fakeRole{},
		tokens: map[string]*fakeToken{}, leases: map[secrets.LeaseID]*fakeLease{},
		login: fakeRole{ttl: time.Hour, max: 1000 * time.Hour},
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
	l := &fakeLease{path: req.Path, token: tok.Value.Text(), until: now.Add(role.ttl), max: now.Add(role.max), role: role}
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

// fakeHost is a task, as a session sees it.
type fakeHost struct {
	mu     sync.Mutex
	events []string
	acts   []string // "publish", "restart", "signal SIGHUP", "script …"
	at     []time.Time
	files  *secrets.Set
	env    *secrets.Set // of the process

	restart func(ctx context.Context) error // what a restart comes to
	publish func() error
	fits    func(*secrets.Set) error
	envRoom int // 0: what is usual
	script  func() (int, error)
	live    func(secret string, l Look)
	during  func(what string) // looks at the world in the middle of an act
	hang    string            // the act that begins so takes until the session ends
	serve   time.Duration     // how long the old process takes to finish, if it may
	served  []time.Time       // when it had, or might not any longer
}

func (h *fakeHost) did(ctx context.Context, what string) error {
	h.mu.Lock()
	h.acts, h.at = append(h.acts, what), append(h.at, time.Now())
	during := h.during
	h.mu.Unlock()
	if during != nil {
		during(what)
	}
	if h.hang != "" && strings.HasPrefix(what, h.hang) {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (h *fakeHost) Publish(ctx context.Context, set *secrets.Set) error {
	if err := h.did(ctx, "publish"); err != nil {
		return err
	}
	if h.publish != nil {
		if err := h.publish(); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files = set
	return nil
}

func (h *fakeHost) Fits(set *secrets.Set) error {
	if h.fits != nil {
		return h.fits(set)
	}
	return nil
}

func (h *fakeHost) NomadToken() secrets.Value { return secrets.Value{} }

func (h *fakeHost) EnvRoom() int {
	if h.envRoom > 0 {
		return h.envRoom
	}
	return 2 << 20
}

func (h *fakeHost) Restart(ctx, serving context.Context, set *secrets.Set) error {
	if err := h.did(ctx, "restart"); err != nil {
		return err
	}
	if h.serve > 0 {
		wait(serving, h.serve)
		h.mu.Lock()
		h.served = append(h.served, time.Now())
		h.mu.Unlock()
	}
	if h.restart != nil {
		if err := h.restart(ctx); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.env = set
	return nil
}

func (h *fakeHost) Signal(ctx context.Context, sig string) error { return h.did(ctx, "signal "+sig) }

func (h *fakeHost) Script(ctx context.Context, _ *secrets.Set, sc secrets.Script) (int, error) {
	if err := h.did(ctx, "script "+sc.Command); err != nil {
		return 0, err
	}
	if h.script != nil {
		return h.script()
	}
	return 0, nil
}

func (h *fakeHost) Live(secret string, l Look) {
	if h.live != nil {
		h.live(secret, l)
	}
}

func (h *fakeHost) Event(msg string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, msg)
}

func (h *fakeHost) applied() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.acts)
}

func (h *fakeHost) said() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.events, "\n")
}

func (h *fakeHost) count(what string) (n int) {
	for _, a := range h.applied() {
		if a == what {
			n++
		}
	}
	return n
}

// world is a keeper with all around it, in a synctest bubble: time is the bubble's.
type world struct {
	t       *testing.T
	dir     string // the state directory
	taskDir string
	vault   *fakeVault
	host    *fakeHost
	cfg     Config
	keeper  *Keeper
}

// inWorld runs a test in a bubble. A task in it has an identity; poke it with the world's fields.
//
// Within test use w.t, and not the t around it, least of all its Context: that is cancelled outside the bubble, and if
// it was waited for inside, the whole test binary ends ("close of synctest channel from outside bubble").
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	inWorldAt(t, newStateDir(t), test)
}

// inWorldAt is inWorld with a state directory.
func inWorldAt(t *testing.T, dir string, test func(w *world)) {
	t.Helper()
	taskDir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: dir, taskDir: taskDir, vault: newFakeVault(), host: &fakeHost{}}
		w.cfg = Config{
			Providers: map[string]Provider{"vault": w.vault}, StateDir: w.dir,
			JWTMount: "jwt-nomad", JWTRole: "nomad-workloads", JWTFile: "private/vault.jwt",
			PollInterval: 10 * time.Second, LeaseCheckInterval: time.Minute, StartTimeout: 2 * time.Minute, RequestRate: 1000,
		}
		w.write("private/vault.jwt", "a.b.c")
		w.start()
		defer func() { w.keeper.Close() }()
		test(w)
	})
}

// start makes a keeper, as a plugin's start does.
func (w *world) start() {
	k, err := New(w.cfg)
	require.NoError(w.t, err)
	k.files = testFiles
	w.keeper = k
}

// testFiles are in the place of the real ones, which need root and have tests of their own.
var testFiles = privateFiles{
	harden: func(string) error { return nil },
	read: func(dir, rel string, _ ...int) (secrets.Value, error) {
		b, err := os.ReadFile(filepath.Join(dir, rel))
		if errors.Is(err, fs.ErrNotExist) {
			err = secrets.Errorf(secrets.NotFound, "%w", err)
		}
		return secrets.NewValue(b), err
	},
}

func (w *world) write(rel, content string) {
	path := filepath.Join(w.taskDir, rel)
	require.NoError(w.t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(w.t, os.WriteFile(path, []byte(content), 0o600))
}

func (w *world) remove(rel string) { require.NoError(w.t, os.Remove(filepath.Join(w.taskDir, rel))) }

func (w *world) task() Task {
	return Task{Driver: "docker", AllocID: "alloc-1", Name: "web", ID: "alloc-1/web/1", Dir: w.taskDir}
}

// spec is a start with these secrets, one a name.
func (w *world) startOf(all map[string]secrets.SecretConfig) Start {
	w.t.Helper()
	c := secrets.TaskConfig{Secrets: map[string]*secrets.SecretConfig{}}
	for name, sc := range all {
		c.Secrets[name] = &sc
	}
	spec, err := w.keeper.providers.compile(c)
	require.NoError(w.t, err)
	return Start{Task: w.task(), Spec: spec, Config: c, Env: map[string]string{}}
}

// open opens a session that has to come up, and watches.
func (w *world) open(all map[string]secrets.SecretConfig) *Session {
	w.t.Helper()
	s, err := w.keeper.Open(w.t.Context(), w.startOf(all), w.host)
	require.NoError(w.t, err)
	s.Watch()
	synctest.Wait()
	return s
}

// sleep lets time pass, and all come to rest.
func (w *world) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// inLoop looks at what is a session's loop's alone.
func inLoop(s *Session, look func()) {
	done := make(chan struct{})
	s.results <- func() {
		defer close(done)
		look()
	}
	<-done
}

// db is a secret of a database, with its user in the environment and a file.
func db(change string) secrets.SecretConfig {
	c := secrets.SecretConfig{
		Path: "database/creds/app", Env: []map[string]string{{"DB_USER": "username"}}, AllFiles: true, ChangeMode: change,
	}
	return changing(c)
}

// app is a static secret.
func app(change string) secrets.SecretConfig {
	return changing(secrets.SecretConfig{Path: "secret/app-1", AllFiles: true, ChangeMode: change})
}

func changing(c secrets.SecretConfig) secrets.SecretConfig {
	switch c.ChangeMode {
	case "signal":
		c.ChangeSignal = "SIGHUP"
	case "script":
		c.ChangeScript = &secrets.ScriptConfig{Command: "/reload"}
	}
	return c
}

type many = map[string]secrets.SecretConfig

// fieldsOf is a secret with one field.
func fieldsOf(value string) secrets.Fields {
	return secrets.NewFields(map[string]any{"value": value})
}

func newStateDir(t testing.TB) string { return filepath.Join(t.TempDir(), "state", "docker") }

var (
	errAway   = secrets.Errorf(secrets.Outage, "connection refused")
	errDenied = secrets.Errorf(secrets.Refused, "permission denied")
)
