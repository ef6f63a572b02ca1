package issuer

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/authority"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/config"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/redact"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/renew"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/store"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/telemetry"
)

// Authority gives certificates.
type Authority interface {
	Order(ctx context.Context, cert *config.Certificate, replaces *x509.Certificate) (*store.Certificate, error)
	Advice(ctx context.Context, leaf *x509.Certificate) (authority.Advice, error)
}

// Options are what an issuer works with.
type Options struct {
	Config    *config.Config
	Store     *store.Store
	Authority Authority
	Redactor  *redact.Redactor
	Metrics   *telemetry.Metrics
	Log       hclog.Logger
}

// ordersAtOnce bounds the orders that run at one time.
const ordersAtOnce = 4

// Issuer keeps the certificates of a configuration.
type Issuer struct {
	certs     *store.Store
	authority Authority
	redactor  *redact.Redactor
	metrics   *telemetry.Metrics
	turns     *renew.Turns
	holder    string // of this process, in locks
	keepers   []*keeper
}

// New is an issuer for a configuration.
func New(opts Options) *Issuer {
	i := &Issuer{
		certs:     opts.Store,
		authority: opts.Authority,
		redactor:  opts.Redactor,
		metrics:   opts.Metrics,
		turns:     renew.NewTurns(ordersAtOnce),
		holder:    newHolder(),
	}
	for _, conf := range opts.Config.Certificates {
		i.keepers = append(i.keepers, &keeper{Issuer: i, conf: conf, log: opts.Log.With("certificate", conf.Name)})
	}
	return i
}

// newHolder names this process. The random part distinguishes it from an earlier process of the same allocation.
func newHolder() string {
	where := os.Getenv("NOMAD_SHORT_ALLOC_ID")
	if where == "" {
		where, _ = os.Hostname()
	}
	return where + "-" + strings.ToLower(rand.Text()[:10])
}

// Run keeps all certificates until ctx ends.
func (i *Issuer) Run(ctx context.Context) {
	i.each(func(k *keeper) {
		for {
			out := k.step(ctx)
			if !sleepUntil(ctx, out.next) {
				k.lastWrite(ctx)
				return
			}
		}
	})
}

// lastWriteTimeout is how long a shutdown waits for the write of a certificate that was issued.
const lastWriteTimeout = 3 * time.Second

// lastWrite tries once more to keep what was issued.
func (k *keeper) lastWrite(ctx context.Context) {
	if k.ordered == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWriteTimeout)
	defer cancel()
	if err := k.write(ctx); err != nil {
		k.log.Error("lost with this process", "error", err)
	}
}

// onceTimeout bounds the wait for another issuer, and for Vault with a certificate in hand.
const onceTimeout = 10 * time.Minute

// Once renews what is due, and returns an error that names each certificate that it could not, and why.
func (i *Issuer) Once(ctx context.Context) error {
	errs := make([]error, len(i.keepers))
	index := map[*keeper]int{}
	for n, k := range i.keepers {
		index[k] = n
	}
	i.each(func(k *keeper) { errs[index[k]] = k.once(ctx) })
	return errors.Join(errs...)
}

func (k *keeper) once(ctx context.Context) error {
	deadline := time.Now().Add(onceTimeout)
	for {
		out := k.step(ctx)
		if out.err == nil && !out.held {
			return nil
		}
		again := out.held || k.ordered != nil
		if !again || time.Now().After(deadline) || !sleepUntil(ctx, out.next) {
			k.lastWrite(ctx)
			err := out.err
			if err == nil {
				err = errors.New("another issuer has the lock")
			}
			return fmt.Errorf("certificate %q: %s", k.conf.Name, k.redactor.String(err.Error()))
		}
	}
}

// each runs f for all keepers at once, and returns when all have ended.
func (i *Issuer) each(f func(*keeper)) {
	var wg sync.WaitGroup
	for _, k := range i.keepers {
		wg.Go(func() { f(k) })
	}
	wg.Wait()
}

// report shows how a step ended.
func (k *keeper) report(out outcome) {
	status := telemetry.Status{Name: k.conf.Name, Path: k.conf.Path, NextLook: out.next, NotAfter: k.notAfter()}
	if k.current != nil {
		status.Serial, status.RenewAt = k.current.Serial(), k.need().at
	}
	if out.err != nil {
		failure, _ := failureOf(out.err)
		status.Result, status.Error = string(failure), k.redactor.String(out.err.Error())
	}
	k.metrics.Report(status)
}

// sleepUntil reports whether the time came before ctx ended.
func sleepUntil(ctx context.Context, at time.Time) bool {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
