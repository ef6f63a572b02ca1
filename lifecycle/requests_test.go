package lifecycle

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A request without an answer tells that its server may be away, unless its asker did not wait: the start of a task whose time is over,
// say, for all of whose secrets a database hangs.
func TestWhoGaveUpTellsNothing(t *testing.T) {
	var told []limit.Answer
	r := newRequests(noMeter{}, func(_ string, a limit.Answer) { told = append(told, a) })
	noAnswer := &secrets.Error{Kind: secrets.Outage, OfServer: true, Err: context.DeadlineExceeded}
	over, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	<-over.Done()
	for _, ctx := range []context.Context{over, t.Context()} {
		q := &request{r: r, provider: "vault", what: OperationRead, began: time.Now()}
		q.done(ctx, noAnswer)
	}
	require.Len(t, told, 1)
	require.Equal(t, limit.Unavailable, told[0].Result)
}
