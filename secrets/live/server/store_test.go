package server

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

// meanwhile is values that come while something else happens.
type meanwhile struct {
	io.Reader
	do func()
}

func (m *meanwhile) Read(b []byte) (int, error) {
	if m.do != nil {
		m.do()
		m.do = nil
	}
	return m.Reader.Read(b)
}

// Two feeders that give values at the same time have no more room than one after the other, and what is withdrawn meanwhile is not set.
func TestWhatIsSetAtTheSameTimeIsCounted(t *testing.T) {
	s := newStore(func(string) {})
	c := &conn{name: "f"}
	of := func(dir string) (wire.Message, []byte) {
		value := make([]byte, 40<<20)
		m := wire.Message{Dir: dir}
		for i := range 40 {
			m.Fields = append(m.Fields, wire.Field{Path: string(rune('A' + i)), Size: 1 << 20})
		}
		return m, value
	}
	for _, dir := range []string{"first", "second", "third"} {
		must.NoError(t, s.declare(c, wire.Directory{Name: dir, Mode: 0o400, StaleMS: 3600_000}))
	}
	first, value := of("first")
	second, _ := of("second")
	err := s.set(c, first, len(value), &meanwhile{bytes.NewReader(value), func() {
		must.NoError(t, s.set(c, second, len(value), bytes.NewReader(value), time.Now()))
	}}, time.Now())
	must.ErrorContains(t, err, "the bound is 67108864")
	must.Nil(t, s.dirs[s.entry(c, "first")].current)
	must.Less(t, wire.MaxNode, s.bytes)

	third := wire.Message{Dir: "third", Fields: []wire.Field{{Path: "v", Size: 1}}}
	err = s.set(c, third, 1, &meanwhile{bytes.NewReader([]byte("x")), func() { s.withdraw(c, "third") }}, time.Now())
	must.ErrorContains(t, err, "no directory third was declared")
	must.Eq(t, 1, len(s.versions))
	for v := range s.versions {
		v.wipe()
	}
}

// Values that are refused leave those before them, of which it is not said any more that they are current, until others are set.
func TestWhatWasRefusedIsNotCurrent(t *testing.T) {
	s := newStore(func(string) {})
	c := &conn{name: "f"}
	set := func(dir string, mib int, at time.Time) error {
		m := wire.Message{Dir: dir}
		for i := range mib {
			m.Fields = append(m.Fields, wire.Field{Path: string(rune('A' + i)), Size: 1 << 20})
		}
		return s.set(c, m, mib<<20, bytes.NewReader(make([]byte, mib<<20)), at)
	}
	for _, dir := range []string{"first", "second"} {
		must.NoError(t, s.declare(c, wire.Directory{Name: dir, Mode: 0o400, StaleMS: 3600_000}))
		must.NoError(t, set(dir, 1, time.Now()))
	}
	d, now := s.dirs[s.entry(c, "second")], time.Now()
	must.NoError(t, set("first", 40, now))
	must.ErrorContains(t, set("second", 40, now), "the bound is 67108864")
	looked := d.looked
	must.ErrorContains(t, s.fresh(c, "second", 0, false, now.Add(time.Minute)), "must be set again")
	must.NoError(t, s.declare(c, d.Directory))                           // by the next feeder,
	must.NoError(t, s.fresh(c, "second", 0, true, now.Add(time.Minute))) // which may have something older
	must.Eq(t, looked, d.looked)
	must.MapLen(t, 1, d.current.fields)
	must.True(t, d.tooOld(looked.Add(time.Hour+time.Second)))

	must.NoError(t, set("first", 1, now))
	must.NoError(t, set("second", 40, now))
	must.NoError(t, s.fresh(c, "second", 0, false, now.Add(time.Minute)))
	must.Eq(t, now.Add(time.Minute), d.looked)
	for v := range s.versions {
		v.wipe()
	}
}

// What was opened while no feeder was there, or was not told of any more, the next one is told in numbers.
func TestWhatNoFeederWasToldOfIsCounted(t *testing.T) {
	s := newStore(func(string) {})
	first, second := &conn{name: "f", news: make(chan struct{}, 1)}, &conn{name: "f", news: make(chan struct{}, 1)}
	declare := func(c *conn) {
		for _, dir := range []string{"a", "b"} {
			must.NoError(t, s.declare(c, wire.Directory{Name: dir, Mode: 0o400, StaleMS: 1000}))
		}
	}
	declare(first)
	d := s.dirs[s.entry(first, "a")]
	report := func(times int) {
		for range times {
			d.report(testHeader(), "v", wire.OK, time.Now())
		}
	}
	report(3)
	m, _ := s.collect(first)
	s.undelivered(first, m) // the connection broke
	report(4)
	s.leave(first, time.Now())
	report(5)
	declare(second)
	declare(second)
	select {
	case <-second.news:
	default:
		t.Fatal("it is not told soon")
	}
	m, any := s.collect(second)
	must.True(t, any)
	must.Eq(t, 3+4+5, m.Lost)
	_, any = s.collect(second)
	must.False(t, any)
}

// Values that are too old, or of a directory that is gone, are wiped in all versions that somebody has open.
func TestOldVersionsAreWipedWithTheCurrentOne(t *testing.T) {
	for name, end := range map[string]func(*store, *conn){
		"too old":   func(s *store, _ *conn) { s.expire(time.Now().Add(time.Hour)) },
		"withdrawn": func(s *store, c *conn) { s.withdraw(c, "a") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(func(string) {})
			c := &conn{name: "f"}
			must.NoError(t, s.declare(c, wire.Directory{Name: "a", Mode: 0o400, StaleMS: 60_000}))
			must.NoError(t, s.declare(c, wire.Directory{Name: "other", Mode: 0o400, StaleMS: 7200_000}))
			set := func(dir, value string) *version {
				m := wire.Message{Dir: dir, Fields: []wire.Field{{Path: "v", Size: len(value)}}}
				must.NoError(t, s.set(c, m, len(value), bytes.NewReader([]byte(value)), time.Now()))
				v := s.dirs[s.entry(c, dir)].current
				v.refs++ // somebody has a file of it open
				return v
			}
			old, current, other := set("a", "old"), set("a", "current"), set("other", "x")
			must.False(t, old.gone)
			end(s, c)
			must.True(t, old.gone && current.gone)
			must.Nil(t, old.values.pages)
			must.False(t, other.gone)
			must.Eq(t, other.size, s.bytes)
			other.wipe()
		})
	}
}
