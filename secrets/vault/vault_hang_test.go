package vault

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// C11: requests that hang, more than a connection of HTTP/2 takes, do not hold up others: the client has no
// queue of its own that tenants would share.
func TestHangingRequestsHoldUpNone(t *testing.T) {
	const hanging = 400
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			var mu sync.Mutex
			there, seen := 0, ""
			all := make(chan struct{})
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "dead") {
					mu.Lock()
					if there++; there == hanging {
						close(all)
					}
					mu.Unlock()
					<-r.Context().Done()
					return
				}
				mu.Lock()
				seen = r.Proto
				mu.Unlock()
				_, _ = w.Write([]byte(`{"data":{"ttl":10}}`))
			}))
			conf := Config{}
			if proto == "HTTP/2.0" {
				server.EnableHTTP2 = true
				server.StartTLS()
				conf.CACert = filepath.Join(t.TempDir(), "ca.pem")
				ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
				require.NoError(t, os.WriteFile(conf.CACert, ca, 0o600))
			} else {
				server.Start()
			}
			defer server.Close()
			conf.Address = server.URL
			v, err := New(conf)
			require.NoError(t, err)
			defer v.Close()

			ctx, cancel := context.WithCancel(t.Context())
			var dead sync.WaitGroup
			for range hanging {
				dead.Go(func() {
					_, _ = v.do(ctx, call{request: request{operation: "read", token: secrets.TextValue("t"), path: "database/creds/dead"}})
				})
			}
			defer dead.Wait()
			defer cancel()
			select {
			case <-all:
			case <-time.After(20 * time.Second):
				t.Fatalf("%d of %d requests came", there, hanging)
			}
			start := time.Now()
			_, err = v.LookupToken(t.Context(), secrets.Token{Value: secrets.TextValue("t")}, "")
			require.NoError(t, err)
			require.Less(t, time.Since(start), 20*time.Second)
			require.Equal(t, proto, seen)
		})
	}
}
