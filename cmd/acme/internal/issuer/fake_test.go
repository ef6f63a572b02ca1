package issuer

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/authority"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/config"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/kvtest"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/redact"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/renew"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/store"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/telemetry"
)

const day = 24 * time.Hour

// fakeAuthority issues whatever is ordered, after a while, unless it is told to fail.
type fakeAuthority struct {
	life   time.Duration
	takes  time.Duration
	fail   func(cert *config.Certificate) error
	advise func(leaf *x509.Certificate) (authority.Advice, error)

	mu       sync.Mutex
	orders   []order
	replaced int
}

type order struct {
	name string
	at   time.Time
	err  error
}

func (a *fakeAuthority) Order(ctx context.Context, cert *config.Certificate, replaces *x509.Certificate) (*store.Certificate, error) {
	var err error
	select {
	case <-time.After(a.takes):
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err == nil && a.fail != nil {
		err = a.fail(cert)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.orders = append(a.orders, order{cert.Name, time.Now(), err})
	if err != nil {
		return nil, err
	}
	if replaces != nil {
		a.replaced++
	}
	return store.NewCertificate(kvtest.Issue(a.life, cert.Domains...))
}

func (a *fakeAuthority) Advice(_ context.Context, leaf *x509.Certificate) (authority.Advice, error) {
	if a.advise == nil {
		return authority.Advice{}, authority.ErrNoAdvice
	}
	return a.advise(leaf)
}

// ordered counts all orders.
func (a *fakeAuthority) ordered() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.orders)
}

// issued counts the orders of a certificate that succeeded.
func (a *fakeAuthority) issued(name string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range a.orders {
		if o.name == name && o.err == nil {
			n++
		}
	}
	return n
}

// process is an issuer as one process has it.
type process struct {
	*Issuer
	metrics *telemetry.Metrics
	log     *bytes.Buffer
}

func newProcess(kv *kvtest.KV, a Authority, names ...string) *process {
	conf := &config.Config{}
	for _, name := range names {
		conf.Certificates = append(conf.Certificates, &config.Certificate{
			Name: name, Domains: []string{name + ".example.com"}, Path: "secret/tls/" + name, KeyType: "ec256",
		})
	}
	log := new(bytes.Buffer)
	metrics := telemetry.NewMetrics(names)
	return &process{log: log, metrics: metrics, Issuer: New(Options{
		Config: conf, Store: store.New(kv, "secret/acme"), Authority: a, Metrics: metrics,
		Redactor: redact.New([]string{"API_TOKEN=hunter2hunter2"}),
		Log:      hclog.New(&hclog.LoggerOptions{Output: log, Mutex: new(sync.Mutex)}),
	})}
}

// run runs the process until the returned function is called.
func (p *process) run(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	return func() { cancel(); <-ended }
}

// stored is what is in Vault.
func stored(t *testing.T, kv *kvtest.KV, name string) *store.Certificate {
	t.Helper()
	there, err := store.New(kv, "").Certificate(t.Context(), "secret/tls/"+name)
	require.NoError(t, err)
	return there.Certificate
}

var errRefused = classified(renew.Refused)

// classified is an authority's error of a kind. The authority's own tests show how they come to be.
func classified(f renew.Failure) error {
	e := authority.NewError(f, 0, errors.New("the authority said no, with hunter2hunter2 in it"))
	return e
}
