package doctor

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// How far the clocks may be apart. JWTs and certificates have a moment from which they are good.
const (
	clockWarn  = 10 * time.Second
	clockError = time.Minute
)

func (f *findings) server(s Server) {
	check := "server"
	if u, err := url.Parse(s.Config.Address); err == nil && u.Scheme == "http" && !loopback(u.Hostname()) {
		f.warn(check, s.Config.Address+" is not encrypted: secrets and tokens can be read on the way", "use https")
	}
	if s.Config.TLSSkipVerify {
		f.warn(check, "tls_skip_verify: whoever answers in the server's place gets the tasks' tokens", "set ca_cert instead")
	}
	if s.Err != nil {
		f.fail(check, fmt.Sprintf("%s: %v", s.Config.Address, s.Err), remedy(s.Err))
		return
	}
	switch {
	case !s.Health.Initialized:
		f.fail(check, s.Config.Address+" is not initialized", "vault operator init")
		return
	case s.Health.Sealed:
		f.fail(check, s.Config.Address+" is sealed", "vault operator unseal")
		return
	}
	if older(s.Health.Version, oldestVault) {
		f.warn(check, fmt.Sprintf("%s, version %s, is older than any that this plugin was tried with", s.Config.Address, s.Health.Version), "use Vault "+oldestVault+" or later, or OpenBao")
	} else {
		f.ok(check, "%s, version %s", s.Config.Address, s.Health.Version)
	}
	f.clock(s)
	f.login(s)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// remedy is what to do about a server that cannot be reached.
func remedy(err error) string {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var dns *net.DNSError
	switch {
	case errors.As(err, &authority):
		return "set ca_cert to the certificate of the authority that signed the server's"
	case errors.As(err, &name):
		return "use a name that is in the server's certificate, or set tls_server_name to one"
	case errors.As(err, &invalid):
		return "replace the server's certificate, if this node's clock is right"
	case errors.As(err, &dns):
		return "correct address, or this node's name resolution"
	}
	return "is the server up, and does address have the right scheme and port? Does a firewall let this node through?"
}

func (f *findings) clock(s Server) {
	ahead, which := s.Health.Ahead, "behind"
	if ahead < 0 {
		ahead, which = -ahead, "ahead of"
	}
	text := fmt.Sprintf("this node's is %s %s the secrets server's", ahead, which)
	switch do := "synchronize the clocks (chrony, systemd-timesyncd)"; {
	case ahead > clockError:
		f.fail("clock", text+": logins may be refused", do)
	case ahead > clockWarn:
		f.warn("clock", text, do)
	default:
		f.ok("clock", "the secrets server's and this node's agree")
	}
}

func (f *findings) login(s Server) {
	const check = "jwt"
	mount := "auth/" + strings.Trim(s.Mount, "/")
	role := fmt.Sprintf("role %q at %s", s.Role, mount)
	switch s.Login {
	case vault.LoginReady:
		f.ok(check, "%s is there, and the server can fetch Nomad's keys", role)
	case vault.LoginNoMethod:
		f.fail(check, "nothing answers at "+mount+": "+s.Said,
			"vault auth enable -path="+strings.Trim(s.Mount, "/")+" jwt, or correct jwt { path } (and namespace); a role with token_bound_cidrs must have this node in them")
	case vault.LoginNoConfig:
		f.fail(check, mount+" has no configuration", "vault write "+mount+`/config jwks_url="https://NOMAD:4646/.well-known/jwks.json"`)
	case vault.LoginNoRole:
		f.warn(check, role+" cannot be used: "+s.Said, "nothing, if every job names its own `role` (docs/vault.md, step 3); else write this one, or correct jwt { role }")
	case vault.LoginNoKeys:
		f.fail(check, "the server cannot fetch Nomad's keys: "+s.Said, "jwks_url in "+mount+"/config must lead the secrets server to a Nomad server's /.well-known/jwks.json (and jwks_ca_pem, with TLS)")
	case vault.LoginNotReached:
		f.fail(check, "the login at "+mount+" gives no answer: "+s.Said, "look into the secrets server's log")
	default:
		f.warn(check, "the login at "+mount+" answers what the doctor does not understand: "+s.Said, "try a job")
	}
	if s.TokenErr != nil {
		f.warn(check, "with VAULT_TOKEN: "+s.TokenErr.Error(), "without it the doctor sees what any node sees")
	}
	if r := s.JWTRole; r != nil {
		if r.NumUses > 0 {
			f.fail(check, fmt.Sprintf("%s has token_num_uses = %d: the plugin refuses its logins", role, r.NumUses), "set token_num_uses = 0")
		}
		if !r.Bound {
			f.warn(check, role+" has no bound_claims: every job of the cluster can use it", "bind it to nomad_namespace and nomad_job_id, or give it only what all jobs may have")
		}
		if r.Batch {
			f.warn(check, role+" gives batch tokens: leases are rotated each time that one ends", `set token_type = "service"`)
		}
	}
}
