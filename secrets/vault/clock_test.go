package vault

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A certificate's end is by the server's clock. Where ours is another, it is replaced by ours neither too
// late nor, as one that seems to have ended already, over and over.
func TestEndsByOurClock(t *testing.T) {
	for _, ahead := range []time.Duration{0, time.Second, time.Hour, -time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			ends := time.Now().Add(10 * time.Minute).Truncate(time.Second)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
				if strings.HasPrefix(r.URL.Path, "/v1/sys/internal/ui/mounts/") {
					_, _ = w.Write([]byte(`{"data":{"path":"pki/","type":"pki"}}`))
					return
				}
				_, _ = fmt.Fprintf(w, `{"data":{"expiration":%d}}`, ends.Add(ahead).Unix())
			}))
			defer server.Close()
			v := newVault(t, Config{Address: server.URL})
			a, err := v.Read(t.Context(), rootTok(), secrets.Request{Path: "pki/issue/web", Params: map[string]string{"common_name": "a"}})
			must.NoError(t, err)
			must.EqOp(t, secrets.Issued, a.Kind)
			must.Less(t, 3*time.Second, a.Ends.Sub(ends).Abs())
		})
	}
}
