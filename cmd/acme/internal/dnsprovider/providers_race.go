//go:build race

package dnsprovider

import (
	"github.com/go-acme/lego/v5/challenge"
	"github.com/go-acme/lego/v5/providers/dns/dnsupdate"
	"github.com/go-acme/lego/v5/providers/dns/exec"
	"github.com/go-acme/lego/v5/providers/dns/httpreq"
)

// constructors are a few only: to build the libraries of all for the race detector takes minutes.
var constructors = map[string]func() (challenge.Provider, error){
	"exec":    func() (challenge.Provider, error) { return exec.NewDNSProvider() },
	"httpreq": func() (challenge.Provider, error) { return httpreq.NewDNSProvider() },
	"rfc2136": func() (challenge.Provider, error) { return dnsupdate.NewDNSProvider() },
}
