// Package challenge proves to an authority that a domain is ours: by records in its zone (dns-01), or by
// answers on a port of the job's (http-01, tls-alpn-01). The ports are open for as long as the issuer runs,
// and one serves any number of orders at once.
package challenge

import (
	"fmt"

	"github.com/go-acme/lego/v5/challenge/dns01"
	"github.com/go-acme/lego/v5/challenge/resolver"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/config"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/dnsprovider"
)

// Solvers are the challenges of a configuration. Close ends those that listen.
type Solvers struct {
	servers map[string]server // by the challenge's name
}

// server answers an authority on a port.
type server interface {
	install(*resolver.SolverManager) error
	close()
}

// Listen opens the ports of the challenges that need one.
func Listen(c *config.Config) (*Solvers, error) {
	if len(c.Resolvers) > 0 {
		dns01.SetDefaultClient(dns01.NewClient(&dns01.Options{RecursiveNameservers: c.Resolvers}))
	}
	s := &Solvers{servers: map[string]server{}}
	for _, ch := range c.Challenges {
		var listening server
		var err error
		switch ch.Type {
		case config.HTTP01:
			listening, err = listenHTTP(ch.Address)
		case config.TLSALPN01:
			listening, err = listenTLSALPN(ch.Address)
		default:
			continue
		}
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("challenge %q: %w", ch.Name, err)
		}
		s.servers[ch.Name] = listening
	}
	return s, nil
}

// Install makes a challenge the only one that an ACME client solves.
func (s *Solvers) Install(ch *config.Challenge, manager *resolver.SolverManager) error {
	if listening := s.servers[ch.Name]; listening != nil {
		return listening.install(manager)
	}
	provider, err := dnsprovider.New(ch.Provider, ch.Environment)
	if err != nil {
		return fmt.Errorf("challenge %q: %w", ch.Name, err)
	}
	return installDNS(ch, provider, manager)
}

// Close closes the ports.
func (s *Solvers) Close() {
	for _, listening := range s.servers {
		listening.close()
	}
}
