package issuer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/authority"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/config"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/renew"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/store"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/vault"
)

const (
	// lookEvery is how often Vault is read at least: somebody may have deleted the certificate.
	lookEvery = time.Hour
	// heldLook is how often a lock is looked at that another issuer has.
	heldLook = 5 * time.Second
	// firstAdvice is how long after its order a certificate's renewal information is asked for.
	firstAdvice = time.Minute
	// panicPause follows a panic, which an early retry would repeat.
	panicPause = time.Hour
	// releaseTimeout is how long giving a lock back may take after a shutdown.
	releaseTimeout = 5 * time.Second
)

// keeper keeps one certificate. Its fields below are its goroutine's alone.
type keeper struct {
	*Issuer
	conf *config.Certificate
	log  hclog.Logger

	current *store.Certificate // as Vault had it last
	ordered *store.Certificate // not yet written
	advice  adviceState
	failed  int // attempts in a row
}

// adviceState is what the authority said of a certificate, and when to ask again.
type adviceState struct {
	serial string
	window *renew.Window // nil: nothing
	again  time.Time
	listed bool // the authority knows the certificate
}

// outcome is how a step ended.
type outcome struct {
	next time.Time // when the next step is due
	held bool      // another issuer has the lock
	err  error
}

// step brings the certificate one step further, and says when the next one is due.
func (k *keeper) step(ctx context.Context) (out outcome) {
	defer func() {
		if p := recover(); p != nil {
			k.log.Error("panic", "value", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			out = outcome{next: time.Now().Add(panicPause), err: fmt.Errorf("panic: %T", p)}
		}
		k.report(out)
	}()
	err := k.attempt(ctx)
	now := time.Now()
	var held *store.HeldError
	switch {
	case err == nil:
		k.failed = 0
		return outcome{next: k.nextLook(now)}
	case errors.As(err, &held):
		k.log.Debug("waiting for another issuer", "holder", held.Holder, "until", held.Until)
		return outcome{next: now.Add(heldLook + time.Duration(rand.Float64()*float64(heldLook))), held: true}
	case ctx.Err() != nil:
		return outcome{next: now, err: err}
	}
	k.failed++
	failure, retryAfter := failureOf(err)
	next := renew.Retry(now, k.notAfter(), renew.Attempt{Failure: failure, Count: k.failed, RetryAfter: retryAfter, Jitter: rand.Float64()})
	k.log.Error("not renewed, the certificate in Vault is kept", "result", failure, "error", k.redactor.String(err.Error()),
		"not_after", stamp(k.notAfter()), "attempt", k.failed, "next_attempt", stamp(next))
	return outcome{next: next, err: err}
}

// attempt is a step without what follows from its error.
func (k *keeper) attempt(ctx context.Context) error {
	if k.ordered != nil {
		if err := k.write(ctx); err != nil {
			return err
		}
	}
	stored, err := k.certs.Certificate(ctx, k.conf.Path)
	if err != nil {
		return err
	}
	k.current = stored.Certificate
	k.askAdvice(ctx)
	if !k.need().due(time.Now()) {
		return nil
	}
	done, err := k.turns.Take(ctx, k.conf.Domains)
	if err != nil {
		return err
	}
	defer done()
	lock, err := k.certs.Lock(ctx, k.conf.Name, k.holder, time.Now())
	if err != nil {
		return err
	}
	return k.locked(ctx, lock, k.renew)
}

func (k *keeper) need() need { return needOf(time.Now(), k.conf, k.current, k.advice.window) }

// renew orders and writes, unless another issuer has done so before the lock was ours.
func (k *keeper) renew(ctx context.Context) error {
	stored, err := k.certs.Certificate(ctx, k.conf.Path)
	if err != nil {
		return err
	}
	k.current = stored.Certificate
	k.askAdvice(ctx)
	need := k.need()
	if !need.due(time.Now()) {
		k.log.Debug("another issuer has renewed it")
		return nil
	}
	var replaces *x509.Certificate
	if k.current != nil && k.advice.listed {
		replaces = k.current.Leaf
	}
	k.log.Info("ordering", "reason", need.reason, "domains", k.conf.Domains, "challenge", k.conf.ChallengeName)
	ctx, cancel := context.WithTimeoutCause(ctx, config.OrderTimeout, errors.New("the order took too long"))
	defer cancel()
	cert, err := k.authority.Order(ctx, k.conf, replaces)
	if err == nil {
		if missing := missingDomains(k.conf, cert); len(missing) > 0 {
			err = fmt.Errorf("the authority's certificate is not for %v", missing)
		}
	}
	k.metrics.Ordered(k.conf.Name, resultOf(err))
	if err != nil {
		return err
	}
	k.ordered = cert
	return k.write(ctx)
}

// write keeps an ordered certificate in Vault, unless a newer one is there.
func (k *keeper) write(ctx context.Context) error {
	kept, err := k.certs.PutCertificate(ctx, k.conf.Path, k.ordered)
	if errors.Is(err, store.ErrForeign) {
		k.ordered = nil // there is no place for it, and by the time there is, it may be old
	}
	if err != nil {
		return fmt.Errorf("the certificate was issued and could not be written: %w", err)
	}
	if kept != k.ordered {
		k.log.Warn("a newer certificate is in Vault and stays", "serial", kept.Serial(), "not_after", stamp(kept.Leaf.NotAfter))
	} else {
		k.log.Info("renewed", "serial", kept.Serial(), "not_after", stamp(kept.Leaf.NotAfter), "path", k.conf.Path)
	}
	k.ordered, k.current, k.advice = nil, kept, adviceState{}
	return nil
}

// locked runs f and keeps the lock alive meanwhile. A lock that was lost ends f.
func (k *keeper) locked(ctx context.Context, lock *store.Lock, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	extended := make(chan struct{})
	go func() {
		defer close(extended)
		tick := time.NewTicker(store.LockTTL / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := lock.Extend(ctx, time.Now())
			if errors.Is(err, vault.ErrConflict) {
				cancel(errors.New("another issuer has taken the lock"))
				return
			}
			if err != nil && ctx.Err() == nil {
				// Nobody else can take it while Vault is away, either.
				k.log.Warn("the lock could not be extended", "error", err)
			}
		}
	}()
	defer func() { // also after a panic
		cancel(nil)
		<-extended
		k.release(ctx, lock)
	}()
	return f(ctx)
}

func (k *keeper) release(ctx context.Context, lock *store.Lock) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer stop()
	if err := lock.Release(ctx); err != nil {
		k.log.Warn("the lock could not be given back and ends by itself", "error", err, "in", store.LockTTL)
	}
}

// askAdvice asks the authority when to renew, if it is time to ask. Without an answer the last one holds,
// and without any the certificate's life decides.
func (k *keeper) askAdvice(ctx context.Context) {
	now := time.Now()
	if k.current == nil {
		k.advice = adviceState{}
		return
	}
	if serial := k.current.Serial(); serial != k.advice.serial {
		k.advice = adviceState{serial: serial}
	}
	if now.Before(k.advice.again) {
		return
	}
	advice, err := k.authority.Advice(ctx, k.current.Leaf)
	switch {
	case err == nil:
		k.advice.window, k.advice.listed = &advice.Window, true
		k.advice.again = renew.AdviceAgain(now, advice.RetryAfter)
	case errors.Is(err, authority.ErrNoAdvice):
		k.advice.window, k.advice.listed = nil, false
		k.advice.again = renew.AdviceAgain(now, 0)
	default:
		// Also for a certificate that is not the authority's. Asked again soon, and it is no failure.
		_, retryAfter := failureOf(err)
		k.advice.again = renew.AdviceAgain(now, max(retryAfter, 15*time.Minute))
		k.log.Debug("no renewal information", "error", k.redactor.String(err.Error()))
	}
}

// nextLook is when there is something to do for a certificate that is in order.
func (k *keeper) nextLook(now time.Time) time.Time {
	next := now.Add(lookEvery)
	advice := k.advice.again
	if k.advice.serial == "" { // of a new certificate nothing was asked yet
		advice = now.Add(firstAdvice)
	}
	candidates := []time.Time{k.need().at, advice}
	for _, at := range candidates {
		if at.Before(next) {
			next = at
		}
	}
	return next
}

func (k *keeper) notAfter() time.Time {
	if k.current == nil {
		return time.Time{}
	}
	return k.current.Leaf.NotAfter
}

// failureOf is an error's kind, and what the server asked for.
func failureOf(err error) (renew.Failure, time.Duration) {
	var refused *authority.Error
	switch {
	case errors.As(err, &refused):
		return refused.Failure, refused.RetryAfter
	case errors.Is(err, vault.ErrDenied), errors.Is(err, vault.ErrNotKV2), errors.Is(err, store.ErrForeign):
		return renew.Misconfigured, 0
	}
	return renew.Unavailable, 0
}

// resultOf is an order's result in the metrics.
func resultOf(err error) string {
	if err == nil {
		return "issued"
	}
	failure, _ := failureOf(err)
	return string(failure)
}

// stamp is a time as logs have it.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "none"
	}
	return t.UTC().Format(time.RFC3339)
}
