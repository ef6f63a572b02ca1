package vault

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// lend gives a lease of a certificate, which no server renews: those that do need a database.
func lend(t *testing.T, s *vaultServer) secrets.LeaseID {
	t.Helper()
	a, err := s.Read(t.Context(), rootTok(), secrets.Request{Path: "pki/issue/leased", Params: map[string]string{"common_name": "a.example.com"}})
	must.NoError(t, err)
	must.EqOp(t, secrets.Leased, a.Kind)
	return a.Lease.ID
}

func TestLeases(t *testing.T) {
	s := startVault(t)
	mountPKI(t, s, "1h")
	id := lend(t, s)
	left, err := s.LeaseTTL(t.Context(), rootTok(), "", id)
	must.NoError(t, err)
	must.Between(t, 59*time.Minute, left, time.Hour)

	// The server answers 400 here as it does for a lease it does not know: this one lives.
	_, err = s.Renew(t.Context(), rootTok(), "", id, time.Hour)
	wantKind(t, err, secrets.Invalid, "renew lease pki/issue/leased/", "not renewable")

	must.NoError(t, s.Revoke(t.Context(), rootTok(), "", id))
	awaitGone(t, s, id)
	_, err = s.Renew(t.Context(), rootTok(), "", id, time.Hour)
	wantKind(t, err, secrets.Gone, "renew lease pki/issue/leased/")
	must.NoError(t, s.Revoke(t.Context(), rootTok(), "", id)) // gone already

	for _, unknown := range []secrets.LeaseID{"pki/issue/leased/never-was", "nowhere/at/all", "x"} {
		_, err = s.LeaseTTL(t.Context(), rootTok(), "", unknown)
		wantKind(t, err, secrets.Gone)
		_, err = s.Renew(t.Context(), rootTok(), "", unknown, 0)
		wantKind(t, err, secrets.Gone)
		must.NoError(t, s.Revoke(t.Context(), rootTok(), "", unknown))
	}
}

// awaitGone waits until the server has seen to a revocation (E1), which it queues.
func awaitGone(t *testing.T, s *vaultServer, id secrets.LeaseID) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		_, err := s.LeaseTTL(t.Context(), rootTok(), "", id)
		if secrets.KindOf(err) == secrets.Gone {
			return
		}
		must.NoError(t, err)
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there", id)
		}
		time.Sleep(10 * time.Millisecond) // between two looks at the condition
	}
}

// A lease revoked behind our back is seen by a check and by a renewal (C6).
func TestLeaseRevokedBehindOurBack(t *testing.T) {
	s := startVault(t)
	mountPKI(t, s, "1h")
	id := lend(t, s)
	s.admin(t, "PUT", "sys/leases/revoke-prefix/pki/issue/leased", nil)
	awaitGone(t, s, id)
	_, err := s.Renew(t.Context(), rootTok(), "", id, time.Hour)
	wantKind(t, err, secrets.Gone)
}

// sys/leases/revoke is not in the default policy (docs/nomad.md).
func TestLeaseRevocationRefused(t *testing.T) {
	s := startVault(t)
	mountPKI(t, s, "1h")
	id := lend(t, s)
	tok := s.newToken(t, map[string]any{"policies": []string{"default"}})
	wantKind(t, s.Revoke(t.Context(), tok, "", id), secrets.Refused, `path "sys/leases/revoke" { capabilities = ["update"] }`)

	bare := s.newToken(t, map[string]any{"policies": []string{"nothing"}, "no_default_policy": true})
	_, err := s.Renew(t.Context(), bare, "", id, time.Hour)
	wantKind(t, err, secrets.Refused, `path "sys/leases/renew" { capabilities = ["update"] }`)
	_, err = s.LeaseTTL(t.Context(), bare, "", id)
	wantKind(t, err, secrets.Refused, `path "sys/leases/lookup" { capabilities = ["update"] }`)
}

// A renewal answered with 400 is sorted by what a look-up says, not by the words.
func TestRenewalRefused(t *testing.T) {
	past := time.Now().Add(-time.Minute).Format(time.RFC3339)
	for name, test := range map[string]struct {
		renewal string
		status  int
		lookup  string
		want    secrets.ErrorKind
	}{
		"the database is away":       {"failed to renew entry: connection refused", 200, `{"data":{"ttl":100,"expire_time":"x","renewable":true}}`, secrets.Outage},
		"not renewable":              {"lease is not renewable", 200, `{"data":{"ttl":100,"expire_time":"x","renewable":false}}`, secrets.Invalid},
		"its time has passed":        {"lease expired", 200, `{"data":{"ttl":0,"expire_time":"` + past + `","renewable":false}}`, secrets.Gone},
		"unknown":                    {"whatever", 400, `{"errors":["invalid lease"]}`, secrets.Gone},
		"unknown, and may not look":  {"lease not found", 403, `{"errors":["permission denied"]}`, secrets.Gone},
		"whatever, and may not look": {"whatever", 403, `{"errors":["permission denied"]}`, secrets.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			fake := startFake(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/renew") {
					w.WriteHeader(400)
					fmt.Fprintf(w, `{"errors":[%q]}`, test.renewal)
					return
				}
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.lookup)
			})
			v := newVault(t, Config{Address: fake.URL})
			_, err := v.Renew(t.Context(), rootTok(), "", "database/creds/a/1", time.Hour)
			wantKind(t, err, test.want, "renew lease database/creds/a/1", test.renewal)
			must.EqOp(t, test.want == secrets.Outage, secrets.IsElsewhere(err))
		})
	}
}
