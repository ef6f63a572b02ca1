package vault

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A token reads what was asked for and nothing else: a redirect to another path is not followed.
func TestVaultFollowsNoRedirectElsewhere(t *testing.T) {
	var sent atomic.Int32
	active := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		sent.Add(1)
		_, _ = w.Write([]byte(`{"data": {"k": "v"}}`))
	}))
	defer active.Close()
	standby := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, active.URL+strings.Replace(r.URL.Path, "allowed", "other", 1), http.StatusTemporaryRedirect)
	}))
	defer standby.Close()
	v := newVault(t, Config{Address: standby.URL})
	_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "kv/allowed"})
	must.EqOp(t, secrets.Outage, secrets.KindOf(err))
	must.StrContains(t, err.Error(), "redirects from /v1/")
	must.EqOp(t, 0, sent.Load())
}

// A request that must be on an engine of the namespace is not sent where the server tells of none: its path may
// begin with another namespace's name.
func TestVaultReadsOnlyWhatIsMountedHere(t *testing.T) {
	var read []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, "/v1/")
		asked, lookup := strings.CutPrefix(path, "sys/internal/ui/mounts/")
		switch {
		case !lookup:
			read = append(read, path)
			_, _ = w.Write([]byte(`{"data": {"k": "v"}}`))
		case strings.HasPrefix(asked, "secret/"):
			_, _ = w.Write([]byte(`{"data": {"path": "secret/", "type": "kv", "options": {"version": "1"}}}`))
		default: // as for what the token has no right on
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"errors": ["preflight capability check returned 403"]}`))
		}
	}))
	defer server.Close()
	v := newVault(t, Config{Address: server.URL})
	_, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "team/secret/app", Mounted: true})
	must.EqOp(t, secrets.Refused, secrets.KindOf(err))
	must.StrContains(t, err.Error(), "another namespace")
	must.SliceEmpty(t, read)
	_, err = v.Read(t.Context(), rootTok(), secrets.Request{Path: "secret/app", Mounted: true})
	must.NoError(t, err)
	_, err = v.Read(t.Context(), rootTok(), secrets.Request{Path: "team/secret/app"})
	must.NoError(t, err)
	must.Eq(t, []string{"secret/app", "team/secret/app"}, read)
}
