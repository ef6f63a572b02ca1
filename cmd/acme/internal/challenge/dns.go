package challenge

import (
	"context"
	"time"

	"github.com/go-acme/lego/v5/challenge"
	"github.com/go-acme/lego/v5/challenge/dns01"
	"github.com/go-acme/lego/v5/challenge/resolver"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/config"
)

// cleanUpTimeout is how long a record's removal may take after the order has ended, also by a shutdown.
const cleanUpTimeout = 15 * time.Second

// installDNS makes dns-01 with a provider the challenge of a client. Looking for the record ends with the
// order.
func installDNS(ch *config.Challenge, provider challenge.Provider, manager *resolver.SolverManager) error {
	check := func(ctx context.Context, _, fqdn, value string, check dns01.PreCheckFunc) (stop bool, err error) {
		if ctx.Err() != nil {
			return true, context.Cause(ctx)
		}
		if !ch.ChecksPropagation() {
			return true, nil
		}
		return check(ctx, fqdn, value)
	}
	return manager.SetDNS01Provider(thorough(provider), dns01.WrapPreCheck(check))
}

// thorough is a provider that removes its records also when the order was ended.
func thorough(p challenge.Provider) challenge.Provider {
	if inner, ok := p.(interface{ Sequential() time.Duration }); ok {
		return sequentialProvider{dnsProvider{p}, inner.Sequential()}
	}
	return dnsProvider{p}
}

type dnsProvider struct{ challenge.Provider }

// CleanUp has its own time.
func (p dnsProvider) CleanUp(ctx context.Context, domain, token, keyAuth string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	return p.Provider.CleanUp(ctx, domain, token, keyAuth)
}

// Timeout is the provider's.
func (p dnsProvider) Timeout() (timeout, interval time.Duration) {
	if inner, ok := p.Provider.(challenge.ProviderTimeout); ok {
		return inner.Timeout()
	}
	return dns01.DefaultPropagationTimeout, dns01.DefaultPollingInterval
}

// sequentialProvider is one that proves one domain after the other.
type sequentialProvider struct {
	dnsProvider
	interval time.Duration
}

// Sequential is the wait between two domains.
func (p sequentialProvider) Sequential() time.Duration { return p.interval }
