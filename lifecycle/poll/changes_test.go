package poll

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What the server rotates by itself is seen just after it has done so, though polls are far apart; and
// they stay far apart before and after, also when the server does not do what it said.
func TestPollWhenTheServerRotates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPolling(t, 0)
		defer p.Close()
		due := time.Now().Add(34 * time.Second)
		late := 3 * time.Second // the server looks at its queue every few seconds
		p.server.set(func() {
			p.server.content["db"] = "one"
			p.server.changes = func(now time.Time) time.Time {
				if now.After(due) {
					return now
				}
				return due
			}
		})
		var seen time.Time
		p.Subscribe(Key{Path: "db"}, Subscriber{
			Token:   func() (secrets.Token, bool) { return secrets.Token{Value: secrets.TextValue("t")}, true },
			Seen:    "one",
			Changes: due,
			Notify:  func() { seen = time.Now() },
		})
		time.Sleep(time.Until(due))
		synctest.Wait()
		require.LessOrEqual(t, len(p.server.taken()), 4, "no more than the interval has before it is due")
		time.Sleep(late)
		rotated := time.Now()
		next := rotated.Add(time.Hour)
		p.server.set(func() {
			p.server.content["db"] = "two"
			p.server.changes = func(time.Time) time.Time { return next }
		})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.False(t, seen.IsZero())
		require.LessOrEqual(t, seen.Sub(rotated), 2*time.Second)
		require.LessOrEqual(t, len(p.server.taken()), 6)

		time.Sleep(time.Until(next))
		p.server.taken()
		p.server.set(func() { p.server.changes = func(now time.Time) time.Time { return now } }) // it never comes
		time.Sleep(time.Minute)
		require.LessOrEqual(t, len(p.server.taken()), 30, "every second for 20 s, then every 10 s")
		p.server.taken()
		time.Sleep(10 * time.Minute)
		require.LessOrEqual(t, len(p.server.taken()), 61)
	})
}
