package poll

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/stretchr/testify/require"
)

// C5, C11: a path that a tenant of hundreds reads, too, is polled for its neighbour at the neighbour's turn.
func TestPollOfASharedPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolling(t, 2)
		watch := func(who limit.Tenant, path, token string) *watcher {
			w := &watcher{}
			w.Subscription = p.Subscribe(Key{Path: path}, Subscriber{
				Tenant: who, Seen: "v1", Notify: func() {},
				Token: func() (secrets.Token, bool) { return secrets.Token{Value: secrets.TextValue(token)}, true },
			})
			p.server.set(func() { p.server.content[path] = "v1" })
			return w
		}
		many, few := limit.Tenant{Namespace: "default", Job: "many"}, limit.Tenant{Namespace: "default", Job: "few"}
		for i := range 300 {
			watch(many, fmt.Sprint("many/", i), "M")
		}
		watch(many, "shared", "M")
		watch(few, "shared", "F")
		watch(few, "own", "F")
		time.Sleep(10 * testInterval)
		p.server.taken()
		time.Sleep(20 * testInterval)
		polls := map[string]int{}
		for _, r := range p.server.taken() {
			polls[r.path+" "+r.token]++
		}
		require.GreaterOrEqual(t, polls["own F"], 15)
		require.GreaterOrEqual(t, polls["shared F"], 15)

		// Where its own token is refused, the other's is used; and no poll begins with a refused one twice in a row.
		p.server.set(func() { p.server.refuse["F"] = errDenied })
		time.Sleep(60 * testInterval)
		polls = map[string]int{}
		for _, r := range p.server.taken() {
			polls[r.path+" "+r.token]++
		}
		require.Positive(t, polls["shared M"])
		require.LessOrEqual(t, polls["shared F"], 2)
	})
}
