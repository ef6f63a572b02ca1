package server

import (
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

func lockThread() { runtime.LockOSThread() }

func uintptrOf(s string) uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(s))) }

func testHeader() *fuse.InHeader { return &fuse.InHeader{} }

func testVersion(fields ...string) *version {
	var list []wire.Field
	for _, f := range fields {
		list = append(list, wire.Field{Path: f})
	}
	return newVersion(list, values{}, time.Now())
}

func TestWhichVersionAProcessGets(t *testing.T) {
	now := time.Now()
	old, current := testVersion("user", "password", "tls/key"), testVersion("user", "password", "tls/key", "new")
	for _, c := range []struct {
		name  string
		opens []string // of the old version, before the change
		tgid  uint32   // who asks: 1 opened
		after time.Duration
		asks  string
		want  *version
	}{
		{"who opened nothing", nil, 1, 0, "user", current},
		{"the password to a user", []string{"user"}, 1, time.Second, "password", old},
		{"a field in a folder", []string{"user"}, 1, time.Second, "tls/key", old},
		{"the same field again", []string{"user"}, 1, 0, "user", current},
		{"either of both again", []string{"user", "password"}, 1, 0, "user", current},
		{"another process", []string{"user"}, 2, 0, "password", current},
		{"too late", []string{"user"}, 1, pairFor, "password", current},
		{"a field that the old one has not", []string{"user"}, 1, 0, "new", current},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPairs(func(v *version) { v.refs-- })
			d := &directory{current: old}
			for _, f := range c.opens {
				p.opened(1, d, p.version(1, d, f, now), f, now)
			}
			d.current = current
			must.Eq(t, c.want == old, p.version(c.tgid, d, c.asks, now.Add(c.after)) == old)
		})
	}
}

func TestAPairBeginsAnewWithTheCurrentVersion(t *testing.T) {
	now := time.Now()
	p := newPairs(func(v *version) { v.refs-- })
	one, two, three := testVersion("user", "password"), testVersion("user", "password"), testVersion("user", "password")
	d := &directory{current: one}
	p.opened(1, d, one, "user", now)
	d.current = two
	p.opened(1, d, p.version(1, d, "user", now), "user", now)
	must.Eq(t, 0, one.refs)
	d.current = three
	must.True(t, p.version(1, d, "password", now) == two)
	p.forget(d)
	must.Eq(t, 0, two.refs)
	must.Zero(t, p.order.Len())
}

func TestTheTableOfPairsIsBounded(t *testing.T) {
	now := time.Now()
	p := newPairs(func(v *version) { v.refs-- })
	v := testVersion("user")
	d := &directory{current: v}
	for tgid := range uint32(3 * pairTable) {
		p.opened(tgid, d, v, "user", now)
	}
	must.Eq(t, pairTable, len(p.entries))
	must.Eq(t, pairTable, v.refs)
	p.expire(now.Add(pairFor))
	must.Eq(t, 0, len(p.entries))
	must.Eq(t, 0, v.refs)
}

// A task that starts thousands of processes keeps nobody else from a user and a password that match.
func TestATaskTakesNoOthersPlaceInTheTable(t *testing.T) {
	now := time.Now()
	p := newPairs(func(v *version) { v.refs-- })
	old := testVersion("user", "password")
	d, hostile := &directory{current: old}, &directory{current: testVersion("user")}
	for tgid := range uint32(2 * pairTable) {
		if tgid%1024 == 0 {
			p.opened(tgid/1024, d, old, "user", now)
		}
		p.opened(tgid, hostile, hostile.current, "user", now)
	}
	must.Eq(t, pairTable, len(p.entries))
	d.current = testVersion("user", "password")
	for tgid := range uint32(8) {
		must.True(t, p.version(tgid, d, "password", now) == old, must.Sprint(tgid))
	}
	p.forget(hostile)
	p.forget(d)
	must.MapEmpty(t, p.of)
}

func TestAThreadsProcessIsFound(t *testing.T) {
	done := make(chan [2]uint32)
	go func() {
		lockThread()
		done <- [2]uint32{uint32(unix.Gettid()), threadGroup(uint32(unix.Gettid()))}
	}()
	got := <-done
	must.Eq(t, uint32(unix.Getpid()), got[1])
	must.Eq(t, uint32(unix.Getpid()), threadGroup(uint32(unix.Getpid())))
	must.Eq(t, uint32(0), threadGroup(0))
	must.Eq(t, uint32(0), threadGroup(1<<30))
	must.Eq(t, uint32(1), threadGroup(1))
}

func TestFewMayWait(t *testing.T) {
	s := newStore(func(string) {})
	c := &conn{name: "f", out: make(chan wire.Message, queueLen), news: make(chan struct{}, 1)}
	must.NoError(t, s.declare(c, wire.Directory{Name: "a", Mode: 0o400, StaleMS: 3600_000}))
	d := s.dirs[s.entry(c, "a")]
	now := time.Now()
	must.Nil(t, s.interest(d, now)) // nothing was set yet
	d.current, d.looked = testVersion("v"), now
	must.Nil(t, s.interest(d, now.Add(time.Second))) // fresh

	now = now.Add(time.Minute)
	l := s.interest(d, now)
	must.NotNil(t, l)
	must.Eq(t, wire.Want, (<-c.out).Type)
	must.True(t, l == s.interest(d, now.Add(10*time.Millisecond))) // for the same look
	must.Nil(t, s.interest(d, now.Add(waitFresh)))                 // it hangs
	must.Nil(t, s.interest(d, now.Add(time.Hour)))                 // still
	d.answered()
	d.looked = now
	must.Nil(t, s.interest(d, now.Add(time.Hour+time.Second))) // is being read: the feeder polls
	now = now.Add(2 * time.Hour)
	d.waiting = maxWaitingDir
	must.Nil(t, s.interest(d, now))
	d.waiting, s.waiting = 0, maxWaiting
	must.Nil(t, s.interest(d, now))
	s.waiting = 0
	must.NotNil(t, s.interest(d, now))
	s.leave(c, now)
	must.Nil(t, s.interest(d, now.Add(time.Hour))) // no feeder: at once
}
