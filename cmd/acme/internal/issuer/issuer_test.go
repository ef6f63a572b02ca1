package issuer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/authority"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/config"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/kvtest"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/renew"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/store"
)

func TestMain(m *testing.M) {
	// A provider's library logs from a goroutine of its own for ever.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/baidubce/bce-sdk-go/util/log.NewLogger.func1"))
}

// Over two years a certificate of 90 days is renewed each time at about a third of its life left, and never
// more often.
func TestRenewedAtAThirdOfItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, a := &kvtest.KV{}, &fakeAuthority{life: 90 * day, takes: time.Minute}
		p := newProcess(kv, a, "web")
		stop := p.run(t)
		time.Sleep(730 * day)
		stop()
		for i := 1; i < len(a.orders); i++ {
			require.InDelta(t, 57.75, a.orders[i].at.Sub(a.orders[i-1].at).Hours()/24, 2.5)
		}
		require.InDelta(t, 13, len(a.orders), 1)
		require.Equal(t, len(a.orders), a.issued("web"))
		require.NotNil(t, stored(t, kv, "web"))
	})
}

// The authority moves the moment forward, as it does before a mass revocation: the certificate is renewed then,
// and the order says which one it replaces.
func TestAdviceMovesTheMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, a := &kvtest.KV{}, &fakeAuthority{life: 90 * day}
		var asked atomic.Int32
		var early atomic.Bool
		a.advise = func(leaf *x509.Certificate) (authority.Advice, error) {
			asked.Add(1)
			from := leaf.NotBefore.Add(60 * day)
			if early.Load() && time.Since(leaf.NotBefore) > day {
				from = time.Now().Add(-time.Hour)
			}
			return authority.Advice{Window: renew.Window{Start: from, End: from.Add(30 * time.Minute)}, RetryAfter: 6 * time.Hour}, nil
		}
		stop := newProcess(kv, a, "web").run(t)
		time.Sleep(10 * day)
		require.Equal(t, 1, a.issued("web"))
		require.InDelta(t, 40, asked.Load(), 2, "asked each six hours, as it wants it")
		early.Store(true)
		time.Sleep(6*time.Hour + time.Minute)
		early.Store(false)
		require.Equal(t, 2, a.issued("web"))
		time.Sleep(30 * day)
		stop()
		require.Equal(t, 2, a.issued("web"))
		require.Equal(t, 1, a.replaced)
	})
}

// An authority that always says "now" is not asked for one after the other.
func TestAdviceThatIsAlwaysNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakeAuthority{life: 90 * day}
		a.advise = func(*x509.Certificate) (authority.Advice, error) {
			return authority.Advice{Window: renew.Window{Start: time.Now().Add(-2 * time.Hour), End: time.Now().Add(-time.Hour)}}, nil
		}
		stop := newProcess(&kvtest.KV{}, a, "web").run(t)
		time.Sleep(day)
		stop()
		require.LessOrEqual(t, a.issued("web"), 25)
	})
}

// The authority is away from before the certificate is due until a day before it ends, for each lifetime
// that there is or will be; and Vault, too. In that day it is renewed.
func TestRenewedOnTheLastDay(t *testing.T) {
	for _, life := range []time.Duration{90 * day, 64 * day, 45 * day, 6 * day} {
		for _, away := range []string{"the authority", "Vault", "both"} {
			t.Run(fmt.Sprintf("%s of %s", away, life), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var authorityAway, vaultAway atomic.Bool
					kv := &kvtest.KV{Fault: func(string, string) error {
						if vaultAway.Load() {
							return errors.New("connection refused")
						}
						return nil
					}}
					a := &fakeAuthority{life: life, fail: func(*config.Certificate) error {
						if authorityAway.Load() {
							return classified(renew.Unavailable)
						}
						return nil
					}}
					p := newProcess(kv, a, "web")
					stop := p.run(t)
					time.Sleep(life / 2)
					first := stored(t, kv, "web")
					require.NotNil(t, first)
					authorityAway.Store(away != "Vault")
					vaultAway.Store(away != "the authority")
					time.Sleep(time.Until(first.Leaf.NotAfter.Add(-day)))
					attempts := a.ordered()
					vaultAway.Store(false)
					require.Equal(t, first.Serial(), stored(t, kv, "web").Serial(), "the certificate in hand is kept")
					authorityAway.Store(false)
					time.Sleep(day - time.Hour)
					stop()
					second := stored(t, kv, "web")
					require.NotEqual(t, first.Serial(), second.Serial())
					require.True(t, second.Leaf.NotBefore.Before(first.Leaf.NotAfter.Add(-20*time.Hour)), "in the first hours: %s", second.Leaf.NotBefore)
					require.Less(t, attempts, 3000)
				})
			})
		}
	}
}

// A domain that is refused keeps no other from being renewed. The log, the metrics and the error of Once say which
// and why, and no credential.
func TestRefusedDomain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, a := &kvtest.KV{}, &fakeAuthority{life: 90 * day, fail: func(cert *config.Certificate) error {
			if cert.Name == "bad" {
				return errRefused
			}
			return nil
		}}
		p := newProcess(kv, a, "one", "bad", "two")
		err := p.Once(t.Context())
		require.ErrorContains(t, err, `certificate "bad": the authority said no`)
		require.NotContains(t, err.Error(), `"one"`)
		require.NotContains(t, err.Error(), "hunter2")
		require.Contains(t, p.log.String(), "certificate=bad result=refused")
		require.NotContains(t, p.log.String(), "hunter2")
		require.NotNil(t, stored(t, kv, "one"))
		require.NotNil(t, stored(t, kv, "two"))
		require.Nil(t, stored(t, kv, "bad"))
		statuses, complete := p.metrics.Statuses()
		require.True(t, complete)
		require.Equal(t, "refused", statuses[1].Result)
		require.NotContains(t, statuses[1].Error, "hunter2")

		require.NoError(t, newProcess(kv, a, "one", "two").Once(t.Context()), "nothing is due")
		require.Equal(t, 1, a.issued("one"))

		// As a service it is tried again, but not so often that it would count: authorities allow five an hour.
		before := len(a.orders)
		stop := newProcess(kv, a, "bad").run(t)
		time.Sleep(day)
		stop()
		require.Less(t, len(a.orders)-before, 12)
	})
}

// Two issuers race over ten certificates: ten orders, as services and by -once.
func TestTwoIssuersOrderOnce(t *testing.T) {
	for _, how := range []string{"once", "service"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kv, a := &kvtest.KV{}, &fakeAuthority{life: 90 * day, takes: 50 * time.Second} // longer than a lock lives
				var names []string
				for i := range 10 {
					names = append(names, fmt.Sprint("web", i))
				}
				first, second := newProcess(kv, a, names...), newProcess(kv, a, names...)
				if how == "once" {
					errs := make(chan error)
					for _, p := range []*process{first, second} {
						go func() { errs <- p.Once(t.Context()) }()
					}
					require.NoError(t, errors.Join(<-errs, <-errs))
				} else {
					stops := []func(){first.run(t), second.run(t)}
					time.Sleep(30 * day)
					stops[0]()
					stops[1]()
				}
				require.Len(t, a.orders, 10)
				for _, name := range names {
					require.Equal(t, 1, a.issued(name))
				}
			})
		})
	}
}

// A certificate that was issued while Vault was away is written when it is back, and not ordered again.
func TestIssuedIsWrittenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		kv := &kvtest.KV{Fault: func(operation, _ string) error {
			if away.Load() {
				return errors.New("connection refused")
			}
			return nil
		}}
		a := &fakeAuthority{life: 90 * day, takes: time.Minute}
		stop := newProcess(kv, a, "web").run(t)
		time.Sleep(10 * time.Second)
		away.Store(true) // while the order runs
		time.Sleep(2 * day)
		away.Store(false)
		time.Sleep(2 * time.Hour)
		require.NotNil(t, stored(t, kv, "web"))
		stop()
		require.Len(t, a.orders, 1)
	})
}

// A shutdown writes what was issued and gives the lock back, so that the next process need not wait.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, a := &kvtest.KV{}, &fakeAuthority{life: 90 * day, takes: time.Minute}
		stop := newProcess(kv, a, "web").run(t)
		time.Sleep(10 * time.Second)
		stop()
		begin := time.Now()
		require.NoError(t, newProcess(kv, a, "web").Once(t.Context()))
		require.Equal(t, time.Minute, time.Since(begin))
	})
}

// Another issuer takes the lock over while this one is cut off from Vault: the order is given up.
func TestLostLockEndsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, a := &kvtest.KV{}, &fakeAuthority{life: 90 * day, takes: time.Hour}
		p := newProcess(kv, a, "web")
		stop := p.run(t)
		time.Sleep(time.Second)
		secret, err := kv.Get(t.Context(), "secret/acme/locks/web")
		require.NoError(t, err)
		_, err = kv.Put(t.Context(), "secret/acme/locks/web", map[string]any{
			"holder": "other", "deadline": time.Now().Add(2 * time.Hour).Format(time.RFC3339),
		}, secret.Version)
		require.NoError(t, err)
		time.Sleep(store.LockTTL)
		stop()
		require.Len(t, a.orders, 1)
		require.ErrorContains(t, a.orders[0].err, "another issuer has taken the lock")
	})
}

// The configuration asks for more than the certificate in Vault is for: it is ordered at once.
func TestChangedConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, a := &kvtest.KV{}, &fakeAuthority{life: 90 * day}
		require.NoError(t, newProcess(kv, a, "web").Once(t.Context()))
		p := newProcess(kv, a, "web")
		p.keepers[0].conf.Domains = append(p.keepers[0].conf.Domains, "more.example.com")
		require.NoError(t, p.Once(t.Context()))
		require.Contains(t, p.log.String(), "it is not for more.example.com")
		require.Equal(t, 2, a.issued("web"))
		p = newProcess(kv, a, "web")
		require.NoError(t, p.Once(t.Context()), "one that is for more is left until it is due")
		require.Equal(t, 2, a.issued("web"))
		p.keepers[0].conf.KeyType = "rsa2048"
		require.NoError(t, p.Once(t.Context()))
		require.Equal(t, 3, a.issued("web"))
	})
}

// What is at the path is no certificate: it stays, and nothing is ordered.
func TestForeignSecretIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, a := &kvtest.KV{}, &fakeAuthority{life: 90 * day}
		_, err := kv.Put(t.Context(), "secret/tls/web", map[string]any{"password": "x"}, 0)
		require.NoError(t, err)
		require.ErrorContains(t, newProcess(kv, a, "web").Once(t.Context()), "secret/tls/web: the path holds something else than a certificate")
		require.Empty(t, a.orders)
	})
}

// A panic in one certificate's step is that one's.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv, a := &kvtest.KV{}, &fakeAuthority{life: 90 * day, fail: func(cert *config.Certificate) error {
			if cert.Name == "bad" {
				panic("with a secret in it")
			}
			return nil
		}}
		p := newProcess(kv, a, "bad", "good")
		stop := p.run(t)
		time.Sleep(time.Minute)
		stop()
		require.NotNil(t, stored(t, kv, "good"))
		require.Contains(t, p.log.String(), "certificate=bad")
		require.NotContains(t, p.log.String(), "with a secret in it")
		lock, err := kv.Get(t.Context(), "secret/acme/locks/bad")
		require.NoError(t, err)
		require.Empty(t, lock.Data["holder"], "the lock is given back")
	})
}

// An issuer is killed at each request to Vault, before it and after it was done, and another one follows: at most
// one order more, and never a key without its certificate.
func TestKilledAtEachRequest(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		for n := range 12 {
			t.Run(fmt.Sprintf("%s request %d", when, n), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					killed, kill := context.WithCancel(t.Context())
					var requests atomic.Int32
					fault := func(operation, path string) error {
						if int(requests.Add(1)) == n+1 {
							kill()
						}
						if killed.Err() != nil {
							return killed.Err() // a killed process makes no further request
						}
						return nil
					}
					kv := &kvtest.KV{}
					if when == "before" {
						kv.Fault = fault
					} else {
						kv.After = fault
					}
					a := &fakeAuthority{life: 90 * day, takes: 50 * time.Second}
					_ = newProcess(kv, a, "web").Once(killed)
					kv.Fault, kv.After = nil, nil
					halfway := stored(t, kv, "web") // it is there with its key, or there is none
					require.NoError(t, newProcess(kv, a, "web").Once(t.Context()))
					require.LessOrEqual(t, a.issued("web"), 2)
					if halfway != nil {
						require.Equal(t, halfway.Serial(), stored(t, kv, "web").Serial())
						require.Equal(t, 1, a.issued("web"))
					}
				})
			})
		}
	}
}

func TestHolderNamesTheProcess(t *testing.T) {
	t.Setenv("NOMAD_SHORT_ALLOC_ID", "0a1b2c3d")
	require.True(t, strings.HasPrefix(newHolder(), "0a1b2c3d-"))
	require.NotEqual(t, newHolder(), newHolder())
}
