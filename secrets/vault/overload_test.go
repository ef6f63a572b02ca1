package vault

import (
	"net/http"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What an outage says of the server as a whole: whether it takes no requests, or wants fewer, and for how long.
func TestOutageTellsOfTheServer(t *testing.T) {
	for name, tt := range map[string]struct {
		status     int
		retryAfter string
		ofServer   bool
		limited    bool
		wait       time.Duration
	}{
		"sealed":                   {503, "", true, false, 0},
		"sealed, behind a proxy":   {503, "7", true, false, 7 * time.Second},
		"limited":                  {429, "", false, true, 0},
		"limited for a while":      {429, "30", false, true, 30 * time.Second},
		"limited until a date":     {429, "Fri, 31 Dec 1999 23:59:59 GMT", false, true, 0},
		"limited for less than no": {429, "-5", false, true, 0},
		"one of its engines":       {500, "", false, false, 0},
		"a standby that lags":      {412, "", false, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := startFake(t, func(w http.ResponseWriter, _ *http.Request) {
				if tt.retryAfter != "" {
					w.Header().Set("Retry-After", tt.retryAfter)
				}
				w.WriteHeader(tt.status)
			})
			_, err := newVault(t, Config{Address: f.URL}).Read(t.Context(), rootTok(), secrets.Request{Path: "secret/app"})
			must.EqOp(t, secrets.Outage, secrets.KindOf(err))
			must.EqOp(t, tt.ofServer, secrets.IsOfServer(err))
			must.EqOp(t, tt.limited, secrets.IsLimited(err))
			must.EqOp(t, tt.wait, secrets.RetryAfter(err))
		})
	}
	f := startFake(t, func(http.ResponseWriter, *http.Request) {})
	f.Close()
	_, err := newVault(t, Config{Address: f.URL}).Read(t.Context(), rootTok(), secrets.Request{Path: "secret/app"})
	must.True(t, secrets.IsOfServer(err), must.Sprint("no connection"))
}
