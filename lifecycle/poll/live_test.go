package poll

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A path that is being read is polled at once and each second, by one poll for all who read it, also while the server is
// away; one that nobody reads as often as its live directory needs.
func TestPollWhatIsBeingRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolling(t, 0)
		defer p.Close()
		p.server.set(func() { p.server.content["app"] = "one" })
		type look struct {
			sent time.Time
			err  error
		}
		looked := make(chan look, 1000)
		notified := make(chan time.Time, 1000)
		var subs []*Subscription
		for range 3 {
			subs = append(subs, p.Subscribe(Key{Path: "app"}, Subscriber{
				Token:  func() (secrets.Token, bool) { return secrets.Token{Value: secrets.TextValue("t")}, true },
				Seen:   "one",
				Notify: func() { notified <- time.Now() },
				Looks:  &Looks{Every: 4 * time.Second, Looked: func(sent time.Time, err error) { looked <- look{sent, err} }},
			}))
		}
		last := func() (l look) {
			synctest.Wait()
			for len(looked) > 0 {
				l = <-looked
			}
			return l
		}
		time.Sleep(time.Minute)
		require.InDelta(t, 60/4, len(p.server.taken()), 2, "nobody reads")
		require.NoError(t, last().err)

		read := func(n int) {
			for range n {
				for _, s := range subs {
					require.True(t, s.Reading())
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		time.Sleep(1500 * time.Millisecond)
		begin := time.Now()
		require.True(t, subs[1].Reading())
		require.Equal(t, begin, last().sent, "the first reader does not wait for the next poll")
		read(200)
		require.InDelta(t, 11, len(p.server.taken()), 2)

		p.server.set(func() { p.server.content["app"] = "two" })
		wrote := time.Now()
		read(30)
		require.Less(t, (<-notified).Sub(wrote), 1100*time.Millisecond)
		require.False(t, last().sent.After(wrote), "what nobody has seen is not what is served")
		for _, s := range subs {
			s.MarkSeen("two")
		}
		read(30)
		require.True(t, last().sent.After(wrote))

		p.server.set(func() { p.server.fail = secrets.Errorf(secrets.Outage, "away") })
		p.server.taken()
		read(200)
		require.InDelta(t, 10, len(p.server.taken()), 2, "it is back soon, for those who read")
		require.Error(t, last().err)
		p.server.set(func() { p.server.fail = nil })
		back := time.Now()
		read(25)
		require.True(t, last().sent.After(back))

		time.Sleep(5 * time.Second)
		p.server.taken()
		time.Sleep(time.Minute)
		require.InDelta(t, 60/4, len(p.server.taken()), 2, "nobody reads any more")
		subs[0].Cancel()
		require.False(t, subs[0].Reading())
	})
}
