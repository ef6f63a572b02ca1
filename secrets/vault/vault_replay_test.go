package vault

import (
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// C11: after a burst, a server whose connections break does not get one read on each of the connections that the
// burst has left: what net/http repeats by itself counts for no request rate.
func TestReadIsNotRepeatedOnEachConnection(t *testing.T) {
	const burst = 32
	var breaks atomic.Bool
	var requests atomic.Int32
	var arrived sync.WaitGroup
	arrived.Add(burst)
	fake := startFake(t, func(w http.ResponseWriter, _ *http.Request) {
		if !breaks.Load() {
			arrived.Done()
			arrived.Wait()
			_, _ = w.Write([]byte(`{"data":{"ttl":60}}`))
			return
		}
		requests.Add(1)
		panic(http.ErrAbortHandler)
	})
	v := newVault(t, Config{Address: fake.URL})
	var all sync.WaitGroup
	for range burst {
		all.Go(func() { _, _ = v.LookupToken(t.Context(), rootTok(), "") })
	}
	all.Wait()

	breaks.Store(true)
	_, err := v.LookupToken(t.Context(), rootTok(), "")
	require.Equal(t, secrets.Outage, secrets.KindOf(err))
	require.LessOrEqual(t, requests.Load(), int32(5), "the idle connections, and a new one")
	require.NotZero(t, requests.Load())
}
