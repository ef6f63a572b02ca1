package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What a node with so many leases takes.
const (
	leaseTasks = 1000
	leasesEach = 10
)

// leases measures the memory and the goroutines of 10,000 leases: the plugin's own sessions, in this process, with a server in the
// place of Vault that keeps nothing. So what there is more of afterwards belongs to them.
func leases(ctx context.Context, _ *bench) (_ []line, err error) {
	dir, err := os.MkdirTemp("", "bench-leases-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(filepath.Join(dir, "private"), 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "private", "vault.jwt"), []byte("a.b.c"), 0o600); err != nil {
		return nil, err
	}
	server := &lender{}
	keeper, err := lifecycle.New(lifecycle.Config{
		Providers: map[string]lifecycle.Provider{secrets.DefaultProvider: server}, StateDir: filepath.Join(dir, "journal", "docker"),
		JWTMount: "jwt-nomad", JWTRole: role, JWTFile: "private/vault.jwt",
		RequestRate: 20, PollInterval: pollInterval, LeaseCheckInterval: time.Second, StartTimeout: time.Minute,
	})
	if err != nil {
		return nil, err
	}
	defer keeper.Close()
	memory, goroutines := harness.MemoryInUse(), runtime.NumGoroutine()
	var sessions []*lifecycle.Session
	for i := range leaseTasks {
		s, err := openSession(ctx, keeper, dir, i)
		if err != nil {
			return nil, err
		}
		sessions = append(sessions, s)
	}
	// All of them are to be checked by now, and all but a few wait for their turn.
	for server.checks.Load() < 50 {
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
	const n = leaseTasks * leasesEach
	perLease := float64(harness.MemoryInUse()-memory) / n
	goroutinesEach := float64(runtime.NumGoroutine()-goroutines) / n
	runtime.KeepAlive(sessions)
	return []line{
		one("memory a lease at 10,000 leases of 1,000 tasks, KiB", fmt.Sprintf("%.1f", perLease/1024)),
		one("goroutines a lease at 10,000 leases of 1,000 tasks", fmt.Sprintf("%.2f", goroutinesEach)),
	}, nil
}

// openSession is a task's, as if its program ran.
func openSession(ctx context.Context, keeper *lifecycle.Keeper, dir string, i int) (*lifecycle.Session, error) {
	config := secrets.TaskConfig{Secrets: map[string]*secrets.SecretConfig{}}
	for n := range leasesEach {
		config.Secrets[fmt.Sprintf("db%d", n)] = &secrets.SecretConfig{
			Path: fmt.Sprintf("database/creds/role-%d", n), Env: []map[string]string{{fmt.Sprintf("PASSWORD_%d", n): "password"}},
		}
	}
	compiled, err := secrets.Compile(config)
	if err != nil {
		return nil, err
	}
	of := lifecycle.Task{Driver: "docker", AllocID: fmt.Sprintf("alloc-%d", i), Name: task, ID: fmt.Sprint(i), Dir: dir}
	s, err := keeper.Open(ctx, lifecycle.Start{Task: of, Spec: compiled, Config: config, Env: map[string]string{}}, noTask{})
	if err != nil {
		return nil, err
	}
	s.Watch()
	return s, nil
}

// leaseTTL is longer than the measurement.
const leaseTTL = time.Hour

// lender is a server that lends what it is asked for, and remembers nothing.
type lender struct{ count, checks atomic.Int64 }

func (l *lender) Address() string { return "http://lender" }

func (l *lender) Read(context.Context, secrets.Token, secrets.Request) (secrets.Answer, error) {
	n := l.count.Add(1)
	return secrets.Answer{
		Kind:   secrets.Leased,
		Fields: secrets.NewFields(map[string]any{"username": fmt.Sprint("v-", n), "password": fmt.Sprintf("%026d", n)}),
		Lease:  secrets.Lease{ID: secrets.LeaseID(fmt.Sprintf("database/creds/role/%024d", n)), Duration: leaseTTL, Renewable: true},
		At:     time.Now(),
	}, nil
}

func (l *lender) Login(context.Context, secrets.Login) (secrets.Token, error) {
	n := l.count.Add(1)
	return secrets.Token{
		Value: secrets.TextValue(fmt.Sprintf("hvs.%095d", n)), Accessor: fmt.Sprintf("%024d", n),
		Expires: time.Now().Add(leaseTTL), TTL: leaseTTL, Renewable: true,
	}, nil
}

func (l *lender) RenewToken(_ context.Context, tok secrets.Token, _ string) (secrets.Token, error) {
	return tok, nil
}

func (l *lender) LookupToken(_ context.Context, tok secrets.Token, _ string) (secrets.Token, error) {
	return tok, nil
}

func (l *lender) RevokeToken(context.Context, secrets.Token, string) error { return nil }

func (l *lender) Renew(_ context.Context, _ secrets.Token, _ string, id secrets.LeaseID, _ time.Duration) (secrets.Lease, error) {
	return secrets.Lease{ID: id, Duration: leaseTTL, Renewable: true}, nil
}

func (l *lender) LeaseTTL(context.Context, secrets.Token, string, secrets.LeaseID) (time.Duration, error) {
	l.checks.Add(1)
	return leaseTTL, nil
}

func (l *lender) Revoke(context.Context, secrets.Token, string, secrets.LeaseID) error { return nil }

// noTask is a task to which nothing is to happen.
type noTask struct{}

func (noTask) Publish(context.Context, *secrets.Set) error                       { return nil }
func (noTask) Fits(*secrets.Set) error                                           { return nil }
func (noTask) EnvRoom() int                                                      { return 1 << 20 }
func (noTask) Restart(context.Context, context.Context, *secrets.Set) error      { return nil }
func (noTask) Signal(context.Context, string) error                              { return nil }
func (noTask) Script(context.Context, *secrets.Set, secrets.Script) (int, error) { return 0, nil }
func (noTask) Live(string, lifecycle.Look)                                       {}
func (noTask) NomadToken() secrets.Value                                         { return secrets.Value{} }
func (noTask) Event(string)                                                      {}
