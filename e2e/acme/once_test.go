package acme

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// A certificate by each of the three challenges; by dns-01 a wildcard and three names in one, by lego's exec
// provider, too. What is kept has the fields of Vault's pki/issue and more. Another run orders nothing.
func TestChallenges(t *testing.T) {
	t.Parallel()
	l := newLab(t, "challenges", shared.Vault, harness.PebbleOptions{})
	script := filepath.Join(t.TempDir(), "records")
	require.NoError(t, os.WriteFile(script, fmt.Appendf(nil, `#!/bin/sh
exec busybox wget -q -O - --post-data "{\"fqdn\":\"$2\",\"value\":\"$3\"}" %s/$1
`, l.pebble.DNSAPI), 0o755))
	config := l.head() + fmt.Sprintf(`
challenge "dns-01" "script" {
  provider          = "exec"
  propagation_check = false
  environment       = { EXEC_PATH = %q, EXEC_SEQUENCE_INTERVAL = "1", EXEC_POLLING_INTERVAL = "1" }
}
challenge "http-01" "web" {
  address = "127.0.0.1:%d"
}
challenge "tls-alpn-01" "tls" {
  address = "127.0.0.1:%d"
}
certificate "script" {
  domains   = ["script.example.com"]
  challenge = "script"
  path      = %q
}
certificate "http" {
  domains   = ["http.example.com"]
  challenge = "web"
  key_type  = "rsa2048"
  path      = %q
}
certificate "alpn" {
  domains   = ["alpn.example.com", "alpn2.example.com"]
  challenge = "tls"
  path      = %q
}
`, script, l.pebble.HTTPPort, l.pebble.TLSPort, l.path("script"), l.path("http"), l.path("alpn")) +
		l.certificate("zone", "default", "zone.example.com", "*.zone.example.com", "other.example.com")
	i := l.start(config, "-once")
	require.Equal(t, 0, i.status(), "%s", i.out)
	l.issued(l.path("script"), "script.example.com")
	l.issued(l.path("http"), "http.example.com")
	l.issued(l.path("alpn"), "alpn.example.com", "alpn2.example.com")
	l.issued(l.path("zone"), "zone.example.com", "any.zone.example.com", "other.example.com")
	fields := l.fields(l.path("zone"))
	for _, field := range []string{"certificate", "issuing_ca", "private_key", "not_after", "serial_number"} {
		require.NotEmpty(t, fields[field], field)
	}
	require.Len(t, fields["ca_chain"], 1)
	require.Equal(t, fields["certificate"].(string)+"\n"+fields["issuing_ca"].(string), fields["fullchain"])

	require.Equal(t, 4, l.pebble.Orders(""))
	i = l.start(config, "-once")
	require.Equal(t, 0, i.status(), "%s", i.out)
	require.Equal(t, 4, l.pebble.Orders(""))
}

// Two issuers race over ten certificates: ten orders.
func TestTwoIssuers(t *testing.T) {
	t.Parallel()
	l := newLab(t, "two", shared.Vault, harness.PebbleOptions{})
	config := l.head()
	for n := range 10 {
		config += l.certificate(fmt.Sprint("web", n), "default", fmt.Sprintf("web%d.example.com", n))
	}
	both := []*issuer{l.start(config, "-once"), l.start(config, "-once")}
	for _, i := range both {
		require.Equal(t, 0, i.status(), "%s", i.out)
	}
	for n := range 10 {
		l.issued(l.path(fmt.Sprint("web", n)), fmt.Sprintf("web%d.example.com", n))
	}
	require.Equal(t, 10, l.pebble.Orders(""))
	worked := 0
	for _, i := range both {
		if strings.Contains(i.out.String(), "renewed") {
			worked++
		}
	}
	require.Equal(t, 2, worked, "both had a part in it")
}

// An issuer is killed after each of its requests, to Vault and to the authority, before it has the answer; then it
// is started again. At most one order more, and never a key without its certificate in Vault.
func TestKilledAtEveryStep(t *testing.T) {
	t.Parallel()
	l := newLab(t, "killed", shared.Vault, harness.PebbleOptions{})
	steps := newKilled(l, 0).steps()
	require.Greater(t, steps, 20)
	for n := 1; n <= steps; n++ {
		t.Run(fmt.Sprintf("step %d", n), func(t *testing.T) {
			t.Parallel()
			of := *l
			of.t = t
			k := newKilled(&of, n)
			k.steps()
			_ = k.stored(k.path(k.cert)) // there with its key, or not at all
			before := k.pebble.Orders("")
			i := k.start(k.config, "-once")
			require.Equal(t, 0, i.status(), "%s", i.out)
			k.issued(k.path(k.cert), k.cert+".example.com")
			require.LessOrEqual(t, k.pebble.Orders(""), 2)
			require.LessOrEqual(t, k.pebble.Orders("")-before, 1)
		})
	}
}

// killed is an issuer of one certificate that is killed after so many requests, or never.
type killed struct {
	*lab
	cert   string
	config string
	count  atomic.Int32
	after  int32
	victim atomic.Pointer[issuer]
}

func newKilled(l *lab, after int) *killed {
	l.t.Helper()
	pebble, err := l.pebble.Another()
	require.NoError(l.t, err)
	l.t.Cleanup(pebble.Close)
	own := *l
	own.pebble = pebble
	k := &killed{lab: &own, cert: fmt.Sprint("step", after), after: int32(after)}
	k.config = k.head() + k.certificate(k.cert, "default", k.cert+".example.com")
	return k
}

// steps runs the issuer, and returns how many requests it has made.
func (k *killed) steps() int {
	k.t.Helper()
	to, err := url.Parse(k.vault.Addr)
	require.NoError(k.t, err)
	vault := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ModifyResponse: func(r *http.Response) error { k.answered(r.Request); return nil },
	})
	defer vault.Close()
	k.pebble.Done(k.answered)
	defer k.pebble.Done(nil)
	i := k.start(k.config, "-once", "VAULT_ADDR="+vault.URL, "VAULT_TOKEN="+k.token())
	k.victim.Store(i)
	status := i.status()
	if k.after == 0 {
		require.Equal(k.t, 0, status, "%s", i.out)
	}
	return int(k.count.Load())
}

// answered is called for each request that a server has answered, before the issuer has the answer.
func (k *killed) answered(*http.Request) {
	if k.count.Add(1) == k.after {
		for k.victim.Load() == nil { // it is being started
			time.Sleep(time.Millisecond)
		}
		k.victim.Load().kill()
	}
}

// A domain that is refused: the others go on. The log, the metric and the exit status of -once say which and why.
func TestRefusedDomain(t *testing.T) {
	t.Parallel()
	l := newLab(t, "refused", shared.Vault, harness.PebbleOptions{Blocklist: []string{"blocked.example.com"}})
	config := l.head() +
		l.certificate("one", "default", "one.example.com") +
		l.certificate("bad", "default", "blocked.example.com") +
		l.certificate("two", "default", "two.example.com")
	i := l.start(config, "-once")
	require.Equal(t, 1, i.status(), "%s", i.out)
	l.issued(l.path("one"), "one.example.com")
	l.issued(l.path("two"), "two.example.com")
	require.Nil(t, l.stored(l.path("bad")))
	last := i.out.String()[strings.LastIndex(strings.TrimSpace(i.out.String()), "\n")+1:]
	require.Contains(t, last, `certificate "bad": `)
	require.Contains(t, last, "urn:ietf:params:acme:error:rejectedIdentifier")
	require.NotContains(t, last, `"one"`)

	port := freePort(t)
	i = l.start(config+fmt.Sprintf("http {\n address = \"127.0.0.1:%d\"\n}\n", port), "")
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	l.until("the check to pass", func() error {
		code, body, err := l.httpGet(base + "/health")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d: %s", code, body)
		}
		return err
	})
	_, body, err := l.httpGet(base + "/health")
	require.NoError(t, err)
	require.Contains(t, body, "rejectedIdentifier")
	_, body, err = l.httpGet(base + "/metrics")
	require.NoError(t, err)
	require.Contains(t, body, `acme_issuer_orders_total{certificate="bad",result="refused"} 1`)
	require.Contains(t, body, `acme_issuer_certificate_failing{certificate="bad",result="refused"} 1`)
	require.Contains(t, body, fmt.Sprintf(`acme_issuer_certificate_not_after_timestamp_seconds{certificate="one"} %g`,
		float64(l.stored(l.path("one")).Leaf.NotAfter.Unix())))
	require.NotContains(t, body, `failing{certificate="one"`)
	require.Contains(t, i.out.String(), "certificate=bad result=refused")
}
