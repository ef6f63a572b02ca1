package vault

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// staticRoles are, for each engine that rotates what it stores, what it answers for a role whose next rotation is a
// minute from now, and the same role after its schedule was moved: the credential is the same.
func staticRoles(now time.Time) map[string]struct{ path, answer, moved string } {
	account := `"username":"u","password":"p","last_vault_rotation":"2026-01-01T00:00:00Z"`
	at := func(after time.Duration) string { return now.Add(after).UTC().Format(time.RFC3339Nano) }
	ldap := struct{ path, answer, moved string }{
		"static-cred/team/app",
		`{"dn":"cn=u",` + account + `,"ttl":60,"rotation_period":3600}`,
		`{"dn":"cn=u",` + account + `,"ttl":60,"rotation_period":7200}`,
	}
	return map[string]struct{ path, answer, moved string }{
		"aws": {
			"static-creds/app",
			`{"access_key":"a","secret_key":"s","expiration":"` + at(time.Minute) + `"}`,
			`{"access_key":"a","secret_key":"s","expiration":"` + at(2*time.Hour) + `"}`,
		},
		"database": {
			"static-creds/app",
			`{` + account + `,"ttl":60,"rotation_period":3600}`,
			`{` + account + `,"ttl":60,"rotation_schedule":"0 0 * * *","rotation_window":3600}`,
		},
		"ldap":     ldap,
		"openldap": ldap,
	}
}

func (r rotation) tellsWhen() bool { return r.countdown != "" || r.moment != "" }

// Of each engine that rotates by a schedule: the answer is static, the moment of the next rotation is known if it tells, what differs at
// each read is no part of the secret, and what tells of the schedule alone is a setting.
func TestStaticRoles(t *testing.T) {
	now := time.Now()
	cases := staticRoles(now)
	must.Eq(t, slices.Sorted(maps.Keys(rotations)), slices.Sorted(maps.Keys(cases)), must.Sprint("a row of `rotations` has no answer here"))
	for engine, role := range cases {
		t.Run(engine, func(t *testing.T) {
			row := rotations[engine]
			must.True(t, row.countdown == "" || row.moment == "", must.Sprint("two fields tell the moment"))
			if row.moment != "" {
				must.SliceContains(t, row.settings, row.moment, must.Sprint("a schedule that moves would be a change"))
			}
			read := func(answer string) secrets.Answer {
				r := reply{status: 200, at: now}
				must.NoError(t, decode([]byte(`{"data":`+answer+`}`), &r.body))
				a, err := answerOf(mount{path: "m/", typ: engine}, request{path: "m/" + role.path}, r)
				must.NoError(t, err)
				must.EqOp(t, secrets.Static, a.Kind)
				return a
			}
			a := read(role.answer)
			if row.tellsWhen() {
				must.Less(t, time.Second, a.Changes.Sub(now.Add(time.Minute)).Abs())
			} else {
				must.True(t, a.Changes.IsZero())
			}
			_, there := a.Fields.Map()[row.countdown]
			must.False(t, there)

			moved := read(role.moved)
			must.NotEq(t, a.Fields.Map(), moved.Fields.Map())
			must.Eq(t, a.Fields.Map(), moved.Fields.WithFrom(a.Fields, moved.Settings).Map())

			// A server that does not tell when: the role is polled each poll_interval, not over and over.
			must.True(t, read(`{"username":"u","password":"p"}`).Changes.IsZero())
			must.True(t, read(`{"ttl":"soon","expiration":null}`).Changes.IsZero())
		})
	}
}

// Of an engine that tells nothing of its schedule no moment is known.
func TestRotationWithoutAMoment(t *testing.T) {
	data := map[string]any{"": json.Number("5"), "ttl": json.Number("5"), "expiration": "2030-01-01T00:00:00Z"}
	must.True(t, rotation{dir: "static-creds/"}.next(reply{at: time.Now()}, data).IsZero())
}

// A static role's next rotation is known by our clock, however the server's goes.
func TestRotationByOurClock(t *testing.T) {
	for _, ahead := range []time.Duration{0, time.Hour, -time.Hour} {
		roles := staticRoles(time.Now().Add(ahead))
		for engine, role := range roles {
			if !rotations[engine].tellsWhen() {
				continue
			}
			t.Run(fmt.Sprint(engine, " ", ahead), func(t *testing.T) {
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
					if strings.HasPrefix(r.URL.Path, "/v1/sys/internal/ui/mounts/") {
						_, _ = fmt.Fprintf(w, `{"data":{"path":"m/","type":%q}}`, engine)
						return
					}
					_, _ = fmt.Fprintf(w, `{"data":%s}`, role.answer)
				}))
				defer server.Close()
				a, err := newVault(t, Config{Address: server.URL}).Read(t.Context(), rootTok(), secrets.Request{Path: "m/" + role.path})
				must.NoError(t, err)
				must.Less(t, 10*time.Second, a.Changes.Sub(time.Now().Add(time.Minute)).Abs())
			})
		}
	}
}
