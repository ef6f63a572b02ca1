package lifecycle

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// observed is what a limiter is told.
type observed struct {
	answers  []limit.Answer
	underWay int // of the server's own work
}

func (o *observed) Answered(_ string, a limit.Answer) { o.answers = append(o.answers, a) }

func (o *observed) Sent(_ string, own bool) (ended func()) {
	if !own {
		return func() {}
	}
	o.underWay++
	return func() { o.underWay-- }
}

// A request without an answer tells that its server may be away, unless its asker did not wait: the start of a task whose time is over,
// say, for all of whose secrets a database hangs. Where he did wait, it tells that an answer takes longer than that.
func TestWhoGaveUp(t *testing.T) {
	noAnswer := &secrets.Error{Kind: secrets.Outage, OfServer: true, Err: context.DeadlineExceeded}
	for _, tt := range []struct {
		name   string
		has    time.Duration // until the asker gives up
		waits  time.Duration
		result []limit.Result
	}{
		{"its time was over soon", 100 * time.Millisecond, 100 * time.Millisecond, nil},
		{"it was waited for", 10 * time.Second, 10 * time.Second, []limit.Result{limit.Overdue}},
		{"the provider itself gave up", time.Hour, 30 * time.Second, []limit.Result{limit.Unavailable}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &observed{}
				r := newRequests(noMeter{}, o)
				ctx, cancel := context.WithTimeout(t.Context(), tt.has)
				defer cancel()
				q := r.begin(ctx, "vault", OperationLookupToken, "auth/token")
				require.Equal(t, 1, o.underWay)
				time.Sleep(tt.waits)
				synctest.Wait()
				q.done(ctx, noAnswer)
				require.Zero(t, o.underWay)
				var got []limit.Result
				for _, a := range o.answers {
					got = append(got, a.Result)
					require.Equal(t, tt.waits, a.Took)
				}
				require.Equal(t, tt.result, got)
			})
		})
	}
}

// Whether a request waits for something behind the server is known before its answer where it matters: of a poll, not of a start's
// read.
func TestOwnWork(t *testing.T) {
	o := &observed{}
	r := newRequests(noMeter{}, o)
	r.begin(t.Context(), "vault", OperationRead, "database")
	r.begin(t.Context(), "vault", OperationRenewLease, "sys")
	require.Zero(t, o.underWay)
	r.begin(limit.Own(t.Context()), "vault", OperationRead, "kv")
	r.begin(t.Context(), "vault", OperationLogin, "auth")
	require.Equal(t, 2, o.underWay)
}
