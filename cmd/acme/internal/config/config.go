package config

import (
	"crypto/x509"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Config is the whole configuration. Fields that end in Range are where a value stands, for errors.
type Config struct {
	Account      *Account       `hcl:"account,block"`
	Storage      *Storage       `hcl:"storage,block"`
	Vault        *Vault         `hcl:"vault,block"`
	HTTP         *HTTP          `hcl:"http,block"`
	Log          *Log           `hcl:"log,block"`
	Challenges   []*Challenge   `hcl:"challenge,block"`
	Certificates []*Certificate `hcl:"certificate,block"`

	Resolvers      []string  `hcl:"dns_resolvers,optional"`
	ResolversRange hcl.Range `hcl:"dns_resolvers,attr_range"`
}

// Account is the account at the authority.
type Account struct {
	Directory      string    `hcl:"directory"`
	DirectoryRange hcl.Range `hcl:"directory,attr_range"`
	Email          string    `hcl:"email,optional"`
	AcceptTerms    bool      `hcl:"accept_terms"`
	TermsRange     hcl.Range `hcl:"accept_terms,attr_range"`
	CACert         string    `hcl:"ca_cert,optional"`
	CACertRange    hcl.Range `hcl:"ca_cert,attr_range"`
	Binding        *Binding  `hcl:"external_account_binding,block"`

	Roots *x509.CertPool // what is in CACert; nil: the system's
}

// Binding ties the account to one that the authority knows otherwise.
type Binding struct {
	KeyID     string    `hcl:"key_id"`
	HMACKey   string    `hcl:"hmac_key"`
	HMACRange hcl.Range `hcl:"hmac_key,attr_range"`
}

// Storage is where the account's key and the locks are kept.
type Storage struct {
	Path      string    `hcl:"path"`
	PathRange hcl.Range `hcl:"path,attr_range"`
}

// Vault is the secrets server, and the token for it: from a file (Nomad's vault block) or by a login with
// a JWT (an identity block).
type Vault struct {
	Address   string    `hcl:"address,optional"`
	Namespace string    `hcl:"namespace,optional"`
	CACert    string    `hcl:"ca_cert,optional"`
	TokenFile string    `hcl:"token_file,optional"`
	JWT       *JWT      `hcl:"jwt,block"`
	Block     hcl.Range `hcl:",def_range"`
}

// JWT is how to log in with a workload identity.
type JWT struct {
	Path string `hcl:"path,optional"`
	Role string `hcl:"role,optional"`
	File string `hcl:"file"`
}

// HTTP is the listener for metrics and the health check.
type HTTP struct {
	Address      string    `hcl:"address"`
	AddressRange hcl.Range `hcl:"address,attr_range"`
}

// Log is how the log reads.
type Log struct {
	Level      string    `hcl:"level,optional"`
	LevelRange hcl.Range `hcl:"level,attr_range"`
	JSON       bool      `hcl:"json,optional"`
}

// The types of challenges.
const (
	DNS01     = "dns-01"
	HTTP01    = "http-01"
	TLSALPN01 = "tls-alpn-01"
)

// Challenge is one way to show that a domain is ours.
type Challenge struct {
	Type      string    `hcl:"type,label"`
	TypeRange hcl.Range `hcl:"type,label_range"`
	Name      string    `hcl:"name,label"`
	NameRange hcl.Range `hcl:"name,label_range"`

	// Of dns-01.
	Provider         string            `hcl:"provider,optional"`
	ProviderRange    hcl.Range         `hcl:"provider,attr_range"`
	Environment      map[string]string `hcl:"environment,optional"`
	EnvironmentRange hcl.Range         `hcl:"environment,attr_range"`
	PropagationCheck *bool             `hcl:"propagation_check,optional"`
	PropagationRange hcl.Range         `hcl:"propagation_check,attr_range"`

	// Of http-01 and tls-alpn-01.
	Address      string    `hcl:"address,optional"`
	AddressRange hcl.Range `hcl:"address,attr_range"`

	Block hcl.Range `hcl:",def_range"`
}

// ChecksPropagation reports whether the record is looked up here before the authority is asked to look it up.
func (c *Challenge) ChecksPropagation() bool { return c.PropagationCheck == nil || *c.PropagationCheck }

// Certificate is one to be kept valid.
type Certificate struct {
	Name           string    `hcl:"name,label"`
	NameRange      hcl.Range `hcl:"name,label_range"`
	Domains        []string  `hcl:"domains"`
	DomainsRange   hcl.Range `hcl:"domains,attr_range"`
	ChallengeName  string    `hcl:"challenge"`
	ChallengeRange hcl.Range `hcl:"challenge,attr_range"`
	Path           string    `hcl:"path"`
	PathRange      hcl.Range `hcl:"path,attr_range"`
	KeyType        string    `hcl:"key_type,optional"`
	KeyTypeRange   hcl.Range `hcl:"key_type,attr_range"`
	Profile        string    `hcl:"profile,optional"`

	Challenge *Challenge // the one that ChallengeName names
}

// OrderTimeout bounds one order: some zones take long to show a record.
const OrderTimeout = time.Hour
