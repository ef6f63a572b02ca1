package vault

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// answered is a server whose every secret is body.
func answered(t *testing.T, body string) *Client {
	fake := startFake(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
	return newVault(t, Config{Address: fake.URL})
}

func TestLimitsOfAnswer(t *testing.T) {
	kv := func(data string) string { return `{"data":{"data":` + data + `}}` }
	for want, body := range map[string]string{
		"read secret/x: the secret is larger than 8 MiB":                       kv(`{"a":"` + strings.Repeat("x", secrets.MaxSecretBytes+maxAnswer) + `"}`),
		"read secret/x: the secret is larger than 8 MiB, which":                strings.Repeat(" ", 2*maxAnswer) + kv(`{}`),
		"read secret/x: the answer holds more than 100000 fields and values":   kv(`{"a":[` + strings.Repeat(`0,`, 1_000_000) + `0]}`),
		"read secret/x: the answer holds more than 100000 fields and values, ": kv(`{"a":[` + strings.Repeat(`[],`, 1_000_000) + `0]}`),
		"read secret/x: the answer is nested more than 100 deep":               kv(`{"a":` + strings.Repeat(`[`, 200) + strings.Repeat(`]`, 200) + `}`),
	} {
		v := answered(t, body)
		before := allocated()
		_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/x"})
		must.ErrorContains(t, err, want)
		must.True(t, secrets.IsLimit(err))
		must.Eq(t, secrets.Invalid, secrets.KindOf(err)) // waiting would not help
		must.Less(t, 64<<20, allocated()-before)         // and the request's end has its part in it
	}
	// What is as large as may be is read.
	v := answered(t, kv(`{"a":"`+strings.Repeat("x", secrets.MaxSecretBytes-100)+`","q":"}},,\"[["}`))
	a, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/x"})
	must.NoError(t, err)
	must.LessEq(t, secrets.MaxSecretBytes+1000, a.Fields.Size())
}

// allocated is what this process has ever allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// A lease that comes with an answer over a limit is revoked: nobody will know of it.
func TestLimitsOfAnswerLeaveNoLease(t *testing.T) {
	revoked := make(chan string, 1)
	fake := startFake(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "sys/leases/revoke") {
			revoked <- r.URL.Path
			w.WriteHeader(http.StatusNoContent)
			return
		}
		fmt.Fprintf(w, `{"request_id":"1","lease_id":"secret/x/lease-1","data":{"data":{"a":"%s"}}}`, strings.Repeat("x", 2*maxAnswer))
	})
	v := newVault(t, Config{Address: fake.URL})
	_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/x"})
	must.True(t, secrets.IsLimit(err))
	must.Eq(t, 1, len(revoked))
	requests, _ := fake.seen()
	must.StrContains(t, requests[len(requests)-1].body, "secret/x/lease-1")
}

// An error that the server makes long is not quoted at all, however it is made up.
func TestLimitsOfServersError(t *testing.T) {
	fake := startFake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"errors":["%s"]}`, strings.Repeat("no ", 10_000_000))
	})
	v := newVault(t, Config{Address: fake.URL})
	_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/x"})
	must.EqError(t, err, "read secret/x: the server answers 400 bad request")
}

// A token's policies may grant more paths than a task may have secrets.
func TestLimitsOfGrants(t *testing.T) {
	d := &discovery{acl: &acl{}}
	for i := range 10_000 {
		d.take(fmt.Sprintf("kv/data/found-%05d", i), capabilities{read: true})
	}
	must.Len(t, secrets.MaxSecrets, d.Found)
}
