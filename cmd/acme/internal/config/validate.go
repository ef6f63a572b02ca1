package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/go-acme/lego/v5/certcrypto"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl/v2"
	"golang.org/x/net/idna"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/dnsprovider"
)

// validate completes the configuration with defaults and finds what the schema cannot.
func (c *Config) validate(whole hcl.Range) (diags hcl.Diagnostics) {
	if c.Account == nil {
		diags = append(diags, At(whole, "no account", `add account { directory = "https://…" accept_terms = true }`))
	} else {
		diags = append(diags, c.Account.validate()...)
	}
	if c.Storage == nil {
		diags = append(diags, At(whole, "no storage", `add storage { path = "secret/acme" }, a KV v2 path for the account's key and the locks`))
	} else {
		diags = append(diags, validatePath(c.Storage.Path, c.Storage.PathRange)...)
	}
	if c.Vault != nil && c.Vault.TokenFile != "" && c.Vault.JWT != nil {
		diags = append(diags, At(c.Vault.Block, "both token_file and jwt", "a token comes from one of them: take one away"))
	}
	if c.HTTP != nil {
		diags = append(diags, validateAddress(c.HTTP.Address, c.HTTP.AddressRange)...)
	}
	if c.Log != nil && c.Log.Level != "" && hclog.LevelFromString(c.Log.Level) == hclog.NoLevel {
		diags = append(diags, At(c.Log.LevelRange, "unknown level "+quote(c.Log.Level), "use trace, debug, info, warn or error"))
	}
	if len(c.Certificates) == 0 {
		diags = append(diags, At(whole, "no certificate", `add at least one certificate "NAME" { domains = […] challenge = "…" path = "…" }`))
	}
	for _, resolver := range c.Resolvers {
		if _, err := netip.ParseAddr(resolver); err != nil {
			diags = append(diags, validateAddress(resolver, c.ResolversRange)...)
		}
	}
	diags = append(diags, c.validateChallenges()...)
	return append(diags, c.validateCertificates()...)
}

func (a *Account) validate() (diags hcl.Diagnostics) {
	if u, err := url.Parse(a.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		diags = append(diags, At(a.DirectoryRange, "directory is not an https URL", "use the authority's ACME directory, such as https://acme-v02.api.letsencrypt.org/directory"))
	}
	if !a.AcceptTerms {
		diags = append(diags, At(a.TermsRange, "the authority's terms of service are not accepted", "read them, and set accept_terms = true"))
	}
	if a.CACert != "" {
		pem, err := os.ReadFile(a.CACert)
		a.Roots = x509.NewCertPool()
		if err != nil {
			diags = append(diags, At(a.CACertRange, "ca_cert cannot be read", err.Error()))
		} else if !a.Roots.AppendCertsFromPEM(pem) {
			diags = append(diags, At(a.CACertRange, "ca_cert has no certificate", a.CACert+" must be in PEM"))
		}
	}
	if b := a.Binding; b != nil && (b.KeyID == "" || b.HMACKey == "") {
		diags = append(diags, At(b.HMACRange, "external_account_binding is incomplete", "key_id and hmac_key are what the authority gave you; keep the latter out of this file by env(\"NAME\") or file(\"PATH\")"))
	}
	return diags
}

func (c *Config) validateChallenges() (diags hcl.Diagnostics) {
	first := map[string]*Challenge{}
	listens := map[string]*Challenge{}
	for _, ch := range c.Challenges {
		if other := first[ch.Name]; other != nil {
			diags = append(diags, At(ch.NameRange, "two challenges named "+quote(ch.Name), "the other is at "+place(other.NameRange)+": rename one"))
			continue
		}
		first[ch.Name] = ch
		switch ch.Type {
		case DNS01:
			diags = append(diags, ch.validateDNS()...)
		case HTTP01, TLSALPN01:
			diags = append(diags, ch.validateListener()...)
			if other := listens[ch.Address]; other != nil && ch.Address != "" {
				diags = append(diags, At(ch.AddressRange, "two challenges on "+ch.Address, "the other is at "+place(other.AddressRange)+": one port serves any number of certificates, let them share the challenge"))
			}
			listens[ch.Address] = ch
		default:
			diags = append(diags, At(ch.TypeRange, "unknown challenge "+quote(ch.Type), "use dns-01, http-01 or tls-alpn-01"))
		}
	}
	return diags
}

func (c *Challenge) validateDNS() (diags hcl.Diagnostics) {
	if c.Address != "" {
		diags = append(diags, At(c.AddressRange, "address is for http-01 and tls-alpn-01", "take it away"))
	}
	if c.Provider == "" {
		return append(diags, At(c.Block, "no provider", `dns-01 needs one of lego's, such as provider = "rfc2136"`))
	}
	// Made to find out whether its variables are there, and again for each order.
	_, err := dnsprovider.New(c.Provider, c.Environment)
	switch {
	case err == nil:
	case errors.Is(err, dnsprovider.ErrUnknown), errors.Is(err, dnsprovider.ErrNotBuiltIn):
		diags = append(diags, At(c.ProviderRange, err.Error(), "lego's documentation lists the names"))
	default:
		diags = append(diags, At(c.ProviderRange, fmt.Sprintf("provider %q cannot be used: %v", c.Provider, err),
			"set its variables in the task's environment, or here by environment = { … }"))
	}
	return diags
}

func (c *Challenge) validateListener() (diags hcl.Diagnostics) {
	if c.Provider != "" {
		diags = append(diags, At(c.ProviderRange, "provider is for dns-01", "take it away"))
	}
	if c.Environment != nil {
		diags = append(diags, At(c.EnvironmentRange, "environment is for dns-01", "take it away"))
	}
	if c.PropagationCheck != nil {
		diags = append(diags, At(c.PropagationRange, "propagation_check is for dns-01", "take it away"))
	}
	if c.Address == "" {
		return append(diags, At(c.Block, "no address", fmt.Sprintf(`%s needs a port of the job's, such as address = ":${env("NOMAD_PORT_acme")}"`, c.Type)))
	}
	return append(diags, validateAddress(c.Address, c.AddressRange)...)
}

func (c *Config) validateCertificates() (diags hcl.Diagnostics) {
	names, paths := map[string]*Certificate{}, map[string]*Certificate{}
	for _, cert := range c.Certificates {
		if other := names[cert.Name]; other != nil {
			diags = append(diags, At(cert.NameRange, "two certificates named "+quote(cert.Name), "the other is at "+place(other.NameRange)+": rename one"))
		}
		names[cert.Name] = cert
		diags = append(diags, validateName(cert)...)
		diags = append(diags, validatePath(cert.Path, cert.PathRange)...)
		path := cleanPath(cert.Path)
		if other := paths[path]; other != nil {
			diags = append(diags, At(cert.PathRange, fmt.Sprintf("certificates %q and %q have one path", other.Name, cert.Name),
				"each would replace the other's; that one's is at "+place(other.PathRange)))
		}
		paths[path] = cert
		if c.Storage != nil && (path == cleanPath(c.Storage.Path) || strings.HasPrefix(path, cleanPath(c.Storage.Path)+"/")) {
			diags = append(diags, At(cert.PathRange, "path is below the storage's", "the account's key and the locks are there: choose a path beside it"))
		}
		diags = append(diags, cert.validateKeyType()...)
		diags = append(diags, c.validateChallengeOf(cert)...)
		diags = append(diags, cert.validateDomains()...)
	}
	return diags
}

var nameRegexp = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// validateName: the name is a part of the lock's path and a metric's label.
func validateName(cert *Certificate) (diags hcl.Diagnostics) {
	if !nameRegexp.MatchString(cert.Name) {
		diags = append(diags, At(cert.NameRange, "bad name "+quote(cert.Name), "use at most 63 letters, digits, '.', '_' and '-'"))
	}
	return diags
}

func (c *Certificate) validateKeyType() (diags hcl.Diagnostics) {
	if c.KeyType == "" {
		c.KeyType = "ec256"
	}
	if _, err := certcrypto.ToKeyType(c.KeyType); err != nil {
		diags = append(diags, At(c.KeyTypeRange, "unknown key_type "+quote(c.KeyType), "use ec256, ec384, rsa2048, rsa3072 or rsa4096"))
	}
	return diags
}

func (c *Config) validateChallengeOf(cert *Certificate) (diags hcl.Diagnostics) {
	var names []string
	for _, ch := range c.Challenges {
		if ch.Name == cert.ChallengeName {
			cert.Challenge = ch
			return nil
		}
		names = append(names, quote(ch.Name))
	}
	remedy := `add challenge "dns-01" ` + quote(cert.ChallengeName) + ` { … }`
	if len(names) > 0 {
		remedy += "; there are " + strings.Join(names, ", ")
	}
	return append(diags, At(cert.ChallengeRange, "no challenge is named "+quote(cert.ChallengeName), remedy))
}

// maxDomains is what Let's Encrypt takes in one certificate.
const maxDomains = 100

func (c *Certificate) validateDomains() (diags hcl.Diagnostics) {
	if len(c.Domains) == 0 || len(c.Domains) > maxDomains {
		return append(diags, At(c.DomainsRange, fmt.Sprintf("%d domains", len(c.Domains)), fmt.Sprintf("a certificate has 1 to %d", maxDomains)))
	}
	seen := map[string]bool{}
	for i, domain := range c.Domains {
		name, err := normalise(domain)
		if err != nil {
			diags = append(diags, At(c.DomainsRange, fmt.Sprintf("bad domain %q: %v", domain, err), `use names such as "www.example.com" or "*.example.com"`))
			continue
		}
		if seen[name] {
			diags = append(diags, At(c.DomainsRange, fmt.Sprintf("domain %q twice", domain), "take one away"))
		}
		seen[name] = true
		c.Domains[i] = name
		if strings.HasPrefix(name, "*.") && c.Challenge != nil && c.Challenge.Type != DNS01 {
			diags = append(diags, At(c.DomainsRange, fmt.Sprintf("wildcard %q by %s", domain, c.Challenge.Type),
				fmt.Sprintf("authorities give wildcards by dns-01 only: name a dns-01 challenge, or the hosts one by one; %q is at %s", c.Challenge.Name, place(c.Challenge.NameRange))))
		}
	}
	return diags
}

var domainRegexp = regexp.MustCompile(`^(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// normalise is a domain as certificates have it: lower case, in ASCII.
func normalise(domain string) (string, error) {
	wildcard, rest := "", domain
	if after, found := strings.CutPrefix(domain, "*."); found {
		wildcard, rest = "*.", after
	}
	ascii, err := idna.Lookup.ToASCII(strings.ToLower(rest))
	if err != nil {
		return "", err
	}
	if name := wildcard + ascii; domainRegexp.MatchString(name) && len(name) <= 253 {
		return name, nil
	}
	return "", errors.New("not a fully qualified domain name")
}

// cleanPath is a path as one writes it at the CLI, without the slashes around it.
func cleanPath(path string) string { return strings.Trim(path, "/") }

func validatePath(path string, at hcl.Range) (diags hcl.Diagnostics) {
	segments := strings.Split(cleanPath(path), "/")
	if len(segments) < 2 || slices.Contains(segments, "") || slices.Contains(segments, "..") || slices.Contains(segments, ".") {
		diags = append(diags, At(at, "bad path "+quote(path), `use a KV v2 path as at the CLI: MOUNT/PATH, such as "secret/tls/web"`))
	} else if segments[1] == "data" || segments[1] == "metadata" {
		diags = append(diags, At(at, "path "+quote(path)+" is one of the API's", "leave out "+quote(segments[1])+", as at the CLI"))
	}
	return diags
}

func validateAddress(address string, at hcl.Range) (diags hcl.Diagnostics) {
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		diags = append(diags, At(at, "bad address "+quote(address), `use HOST:PORT or :PORT`))
	}
	return diags
}

func quote(s string) string { return fmt.Sprintf("%q", s) }

func place(r hcl.Range) string { return fmt.Sprintf("%s:%d", r.Filename, r.Start.Line) }
