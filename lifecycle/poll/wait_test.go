package poll

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// waitServer is a provider that can wait. It has one path, and knows a task by its name.
type waitServer struct {
	mu      sync.Mutex
	now     int // the revision; -1: nothing is there, and it cannot wait for it
	fail    error
	refuse  map[string]error // by task
	hasty   bool             // it answers at once, changed or not
	panics  bool
	bounded bool     // it answers when the wait has taken as long as it may
	asked   []string // of each wait: by which task, and since when
	changed chan struct{}
}

func (s *waitServer) Wait(ctx context.Context, _ secrets.Token, req secrets.Request, since string, atMost time.Duration) (string, error) {
	var over <-chan time.Time
	if s.bounded {
		over = time.After(atMost)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, req.Task.Name+" "+since)
	for {
		revision := fmt.Sprint(s.now)
		switch {
		case s.panics:
			panic("a wait")
		case s.fail != nil:
			return "", s.fail
		case s.refuse[req.Task.Name] != nil:
			return "", s.refuse[req.Task.Name]
		case s.now < 0:
			return "", secrets.Errorf(secrets.NotFound, "nothing is there")
		case s.hasty || revision != since:
			return revision, nil
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-over:
			s.mu.Lock()
			return revision, nil
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ctx.Err() != nil {
			return "", secrets.Errorf(secrets.Outage, "%w", ctx.Err())
		}
	}
}

func (s *waitServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

// taken gives the waits since it was last asked.
func (s *waitServer) taken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

type waiting struct {
	*Poller
	server *waitServer
}

// inWaiting runs a test with a poller whose provider "store" can wait.
func inWaiting(t *testing.T, test func(t *testing.T, w *waiting)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &waiting{server: &waitServer{now: 1, refuse: map[string]error{}, changed: make(chan struct{})}}
		w.Poller = New(Config{
			Read: func(context.Context, secrets.Token, secrets.Request) (secrets.Answer, error) { panic("it is read") },
			Waiter: func(provider string) Waiter {
				require.Equal(t, "store", provider)
				return w.server
			},
			Limit: limit.New(1000, nil), Interval: testInterval, Random: func() float64 { return 0.5 }, Log: hclog.NewNullLogger(),
		})
		defer w.Close()
		test(t, w)
	})
}

func (w *waiting) watch(task, seen string) *watcher {
	s := &watcher{}
	s.Subscription = w.Subscribe(Key{Provider: "store", Path: "a"}, Subscriber{
		Token: func() (secrets.Token, bool) { return secrets.Token{}, true },
		Task:  secrets.Task{Name: task}, Seen: seen,
		Notify: func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.notified++
		},
	})
	return s
}

func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// One wait for all; each is notified once of a change, and the next wait is for what comes after it.
func TestWaitForAll(t *testing.T) {
	inWaiting(t, func(t *testing.T, w *waiting) {
		a, b := w.watch("a", "1"), w.watch("b", "1")
		settle(time.Minute)
		require.Equal(t, []string{"a 1"}, w.server.taken())
		w.server.set(func() { w.server.now = 2 })
		settle(betweenWaits)
		require.Equal(t, 1, a.count())
		require.Equal(t, 1, b.count())
		require.Equal(t, []string{"a 2"}, w.server.taken())
		a.MarkSeen("2")
		settle(5 * time.Minute)
		require.Zero(t, a.count())
		require.Zero(t, b.count(), "not twice of the same")
	})
}

// One that joins and has something else than what is waited for is notified at once, and so is one that knows nothing.
func TestWaitIsJoined(t *testing.T) {
	inWaiting(t, func(t *testing.T, w *waiting) {
		w.server.now = 3
		first := w.watch("first", "") // as after a recovery
		settle(betweenWaits)
		require.Equal(t, 1, first.count())
		require.Equal(t, []string{"first ", "first 3"}, w.server.taken())
		behind, same := w.watch("behind", "2"), w.watch("same", "3")
		require.Equal(t, 1, behind.count())
		require.Zero(t, same.count())
		settle(time.Minute)
		require.Zero(t, behind.count())
	})
}

// A refusal, or its end, of the task that waits is the next one's turn at once; what all are refused each is to find
// out itself.
func TestWaitGoesToTheNext(t *testing.T) {
	inWaiting(t, func(t *testing.T, w *waiting) {
		a, b := w.watch("a", "1"), w.watch("b", "1")
		settle(time.Second)
		w.server.set(func() { w.server.refuse["a"] = errDenied })
		settle(time.Second)
		require.Equal(t, []string{"a 1", "b 1"}, w.server.taken())
		require.Zero(t, a.count()+b.count())
		b.Cancel()
		settle(time.Second)
		require.Equal(t, []string{"a 1"}, w.server.taken())
		require.Equal(t, 1, a.count(), "its right is gone")
		a.Cancel()
		settle(10 * testInterval)
		require.LessOrEqual(t, len(w.server.taken()), 1)
	})
}

// An outage that may be of who asks is the next one's turn at once, for a few; only if none is answered it is an outage.
func TestWaitOutageOfOne(t *testing.T) {
	inWaiting(t, func(t *testing.T, w *waiting) {
		ofAsker := &secrets.Error{Kind: secrets.Outage, OfAsker: true, Err: errors.New("the allocation has ended")}
		a := w.watch("a", "1")
		settle(time.Second)
		b := w.watch("b", "1") // while a waits
		settle(time.Second)
		w.server.set(func() { w.server.refuse["a"] = ofAsker })
		settle(time.Second)
		require.Equal(t, []string{"a 1", "b 1"}, w.server.taken())
		w.server.set(func() { w.server.refuse["b"] = ofAsker })
		settle(testInterval)
		require.Subset(t, w.server.taken(), []string{"b 1", "a 1"})
		require.Zero(t, a.count()+b.count(), "nobody has lost a right")
		for i := range 2 * maxAskers {
			name := fmt.Sprint("c", i)
			w.server.set(func() { w.server.refuse[name] = ofAsker })
			w.watch(name, "1")
		}
		settle(maxStretch * testInterval)
		w.server.taken()
		settle(maxStretch * testInterval)
		require.LessOrEqual(t, len(w.server.taken()), 2*maxAskers, "not of all")
		w.server.set(func() { w.server.now = 2; clear(w.server.refuse) })
		settle(maxStretch * testInterval)
		require.Equal(t, 1, a.count())
		require.Equal(t, 1, b.count())
	})
}

// An outage is tried again after an interval, then more slowly; what changed meanwhile is found.
func TestWaitOutage(t *testing.T) {
	inWaiting(t, func(t *testing.T, w *waiting) {
		a := w.watch("a", "1")
		settle(time.Second)
		w.server.set(func() { w.server.fail = errAway })
		settle(10 * testInterval)
		require.Len(t, w.server.taken(), 5, "the first, and after 1, 2, 3 and 4 intervals")
		w.server.set(func() { w.server.fail, w.server.now = nil, 2 })
		settle(maxStretch * testInterval)
		require.Equal(t, 1, a.count())
	})
}

// Nothing is there: without a revision it is looked for every interval. One that is told so does not hear it again.
func TestWaitForNothing(t *testing.T) {
	inWaiting(t, func(t *testing.T, w *waiting) {
		a := w.watch("a", "1")
		settle(time.Second)
		w.server.taken()
		w.server.set(func() { w.server.now = -1 })
		settle(time.Second)
		require.Equal(t, 1, a.count())
		a.MarkSeen(Absent)
		settle(10 * testInterval)
		require.Zero(t, a.count())
		require.InDelta(t, 10, len(w.server.taken()), 1)
		w.server.set(func() { w.server.now = 7 })
		settle(testInterval + time.Second)
		require.Equal(t, 1, a.count())
	})
	inWaiting(t, func(t *testing.T, w *waiting) { // and here its revision is told
		a := w.watch("a", "1")
		settle(time.Second)
		w.server.set(func() { w.server.now = 8; w.server.hasty = true })
		settle(time.Second)
		require.Equal(t, 1, a.count())
		a.MarkSeen(Absent)
		settle(time.Minute)
		require.Zero(t, a.count())
	})
}

// A provider that answers at once whatever it is asked is not asked all the time.
func TestWaitIsPaced(t *testing.T) {
	inWaiting(t, func(t *testing.T, w *waiting) {
		w.server.hasty = true
		a := w.watch("a", "1")
		settle(time.Minute)
		require.InDelta(t, 60, len(w.server.taken()), 2)
		require.Zero(t, a.count())
	})
}

// What is in a live directory is looked at as often as that needs, though another task has the wait already; and soon after an
// outage, all the more while somebody reads. One whose secret is gone is told so, too.
func TestWaitOfALiveDirectory(t *testing.T) {
	inWaiting(t, func(t *testing.T, w *waiting) {
		w.server.bounded = true
		w.watch("other", "1")
		settle(time.Second)
		require.Equal(t, []string{"other 1"}, w.server.taken())

		const every = 2 * time.Second
		var mu sync.Mutex
		looked, failed := time.Now(), 0
		sub := w.Subscribe(Key{Provider: "store", Path: "a"}, Subscriber{
			Token: func() (secrets.Token, bool) { return secrets.Token{}, true },
			Task:  secrets.Task{Name: "live"}, Seen: "1", Notify: func() {},
			Looks: &Looks{Every: every, Looked: func(sent time.Time, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed++
				} else {
					looked = sent
				}
			}},
		})
		age := func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return time.Since(looked)
		}
		for range 100 {
			settle(time.Second)
			require.LessOrEqual(t, age(), 2*every, "a third of how long it may be served is one wait")
		}
		require.InDelta(t, 50, len(w.server.taken()), 2)
		require.False(t, sub.Reading(), "who waits has what is current")

		w.server.set(func() { w.server.fail = errAway })
		settle(10 * testInterval)
		w.server.taken()
		require.Positive(t, failed)
		require.True(t, sub.Reading())
		settle(time.Second)
		require.NotEmpty(t, w.server.taken(), "somebody reads")
		for range 10 {
			sub.Reading()
			settle(time.Second)
		}
		require.InDelta(t, 10, len(w.server.taken()), 2)
		w.server.set(func() { w.server.fail = nil })
		settle(3 * time.Second)
		require.LessOrEqual(t, age(), 2*every)

		w.server.set(func() { w.server.now = 2 }) // of a revision that means: nothing
		settle(time.Second)
		sub.MarkSeen(Absent)
		settle(time.Minute)
		require.LessOrEqual(t, age(), 2*every)
	})
}

// After an outage a wait first finds out whether the server is back, and does not take as long as others.
func TestWaitAfterAnOutage(t *testing.T) {
	inWaiting(t, func(t *testing.T, w *waiting) {
		w.server.bounded = true
		var back time.Time
		w.Subscribe(Key{Provider: "store", Path: "a"}, Subscriber{
			Token: func() (secrets.Token, bool) { return secrets.Token{}, true },
			Task:  secrets.Task{Name: "a"}, Seen: "1", Notify: func() {},
			Answered: func(failures int, _ error) {
				if failures == 0 {
					back = time.Now()
				}
			},
		})
		settle(time.Second)
		w.server.set(func() { w.server.fail = errAway })
		settle(testInterval / 2)
		w.server.set(func() { w.server.fail = nil })
		now := time.Now()
		settle(testInterval + time.Minute)
		require.LessOrEqual(t, back.Sub(now), testInterval+betweenWaits)
	})
}

// A panic in a provider is not the other polls' matter (C14).
func TestWaitThatPanics(t *testing.T) {
	inWaiting(t, func(t *testing.T, w *waiting) {
		w.server.panics = true
		a := w.watch("a", "1")
		settle(time.Second)
		w.server.set(func() { w.server.panics, w.server.now = false, 2 })
		settle(2 * testInterval)
		require.Equal(t, 1, a.count())
	})
}
