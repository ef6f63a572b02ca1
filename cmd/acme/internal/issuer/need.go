package issuer

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/config"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/renew"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/store"
)

// need is when a certificate is to be ordered, and why.
type need struct {
	at     time.Time
	reason string
}

func (n need) due(now time.Time) bool { return !now.Before(n.at) }

// needOf decides on what is in Vault.
func needOf(now time.Time, conf *config.Certificate, cert *store.Certificate, advice *renew.Window) need {
	if cert == nil {
		return need{now, "there is none yet"}
	}
	if missing := missingDomains(conf, cert); len(missing) > 0 {
		return need{now, "it is not for " + strings.Join(missing, ", ")}
	}
	if cert.KeyType() != strings.ToLower(conf.KeyType) {
		return need{now, fmt.Sprintf("its key is %s, and key_type is %s", cert.KeyType(), conf.KeyType)}
	}
	reason := "a third of its life is left"
	if advice != nil {
		reason = "the authority wants it renewed"
	}
	return need{renew.At(lifeOf(cert), advice), reason}
}

// missingDomains are those that the certificate is not for. One that is taken out of the configuration
// leaves the certificate at its next renewal.
func missingDomains(conf *config.Certificate, cert *store.Certificate) (missing []string) {
	for _, domain := range conf.Domains {
		if !slices.Contains(cert.Leaf.DNSNames, domain) {
			missing = append(missing, domain)
		}
	}
	return missing
}

func lifeOf(cert *store.Certificate) renew.Life {
	return renew.Life{
		NotBefore: cert.Leaf.NotBefore,
		NotAfter:  cert.Leaf.NotAfter,
		Written:   cert.Written,
		Fraction:  renew.FractionOf(cert.Leaf.SerialNumber.Bytes()),
	}
}
