package secrets

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
)

// maxKeys is how many secrets of a task may have a key made: an RSA key takes a core for seconds.
const maxKeys = 20

// keySizes are the sizes that a type of key may have, the usual one first.
var keySizes = map[string][]int{
	"ec":      {256, 384, 521},
	"rsa":     {2048, 3072, 4096},
	"ed25519": {0},
}

// csrParams are the parameters that csr stands in the place of.
var csrParams = []string{ParamCSR, "common_name", "alt_names", "ip_sans", "key_type", "key_bits", "private_key_format", "format"}

// csr checks a csr block, and adds what it says to params; nil: there is none.
func (k *compiler) csr(place string, c *SecretConfig, params map[string]string) (*CSR, map[string]string) {
	if c.CSR == nil {
		return nil, params
	}
	place += ": csr"
	if n := len(Segments(c.Path)); c.provider() != DefaultProvider {
		k.badf(place, "it is for provider %q only; take it out", DefaultProvider)
	} else if n < 3 || Segments(c.Path)[n-2] != "sign" {
		k.badf(place, `path %q is not one that signs; give "<mount>/sign/<role>" of a pki engine`, c.Path)
	}
	if c.Version != 0 {
		k.badf(place, "version is for reading a KV v2 secret; take it out")
	}
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if slices.Contains(csrParams, name) {
			k.badf(place, "params: %q is what csr says, or follows from it; take it out of params", name)
		}
	}
	b := c.CSR
	csr := &CSR{CommonName: b.CommonName, DNSNames: b.DNSNames, ReuseKey: b.ReuseKey}
	csr.KeyType, csr.KeyBits = k.keyKind(place, b)
	all := map[string]string{}
	maps.Copy(all, params)
	if b.CommonName == "" && len(b.DNSNames) == 0 && len(b.IPAddresses) == 0 {
		k.badf(place, "it has no name; give common_name, dns_names or ip_addresses")
	}
	k.plainText(place, "common_name", b.CommonName)
	for _, name := range b.DNSNames {
		if !isDNSName(name) {
			k.badf(place, "dns_names: %q is not a DNS name; give one such as \"web.example.com\", an international one in its ASCII form", Cut(name, maxWord))
		}
	}
	var ips []string
	for _, text := range b.IPAddresses {
		ip := net.ParseIP(text)
		if ip == nil {
			k.badf(place, "ip_addresses: %q is not an IP address; give one such as \"10.0.0.1\"", Cut(text, maxWord))
			continue
		}
		csr.IPAddresses = append(csr.IPAddresses, ip)
		ips = append(ips, ip.String())
	}
	// The request names them too: which of the two counts is the role's to say (use_csr_common_name, use_csr_sans).
	for name, value := range map[string]string{"common_name": b.CommonName, "alt_names": strings.Join(b.DNSNames, ","), "ip_sans": strings.Join(ips, ",")} {
		if value != "" {
			all[name] = value
		}
	}
	return csr, all
}

// keyKind is the type and size of the key that a csr block asks for.
func (k *compiler) keyKind(place string, b *CSRConfig) (kind string, bits int) {
	kind, bits = b.KeyType, b.KeyBits
	if kind == "" {
		kind = "ec"
	}
	sizes, known := keySizes[kind]
	switch {
	case !known:
		k.badf(place, "key_type %q is not known; use ec, rsa or ed25519", Cut(kind, maxWord))
	case bits == 0:
		bits = sizes[0]
	case kind == "ed25519":
		k.badf(place, `key_bits %d does not fit key_type "ed25519", which has one size; take it out`, bits)
	case !slices.Contains(sizes, bits):
		k.badf(place, "key_bits %d does not fit key_type %q; use %s", bits, kind, strings.Trim(fmt.Sprint(sizes), "[]"))
	}
	return kind, bits
}

// isDNSName reports whether a name can stand in a certificate, and in a list of names with commas between.
func isDNSName(name string) bool {
	return name != "" && len(name) <= 253 && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._*", r)
	})
}
