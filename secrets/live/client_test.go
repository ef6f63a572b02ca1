package live

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

// socketPair is a client's connection, and the other end.
func socketPair(t *testing.T) (*client, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must.NoError(t, err)
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		ends[i], err = net.FileConn(f)
		must.NoError(t, err)
		must.NoError(t, f.Close())
	}
	c := newClient(ends[0].(*net.UnixConn), process{pid: 1 << 30, fd: -1})
	t.Cleanup(c.close)
	t.Cleanup(func() { _ = ends[1].Close() })
	return c, ends[1]
}

// A long message that takes longer than a second, for nobody has time, is no file server that hangs, as long as it is taken.
func TestALongMessageIsNoHang(t *testing.T) {
	for name, read := range map[string]bool{"slowly": true, "not at all": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, server := socketPair(t)
			var fields []wire.Field
			var values [][]byte
			for _, n := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"} {
				fields, values = append(fields, wire.Field{Path: n, Size: 700_000}), append(values, make([]byte, 700_000))
			}
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = c.send(wire.Message{Type: wire.Set, Dir: "d", Fields: fields}, values...)
			}()
			ctx, cancel := context.WithCancel(t.Context())
			hung := make(chan bool, 1)
			go func() { hung <- c.hangs(ctx, func() {}) }()
			if read {
				slowly := time.NewTicker(50 * time.Millisecond)
				defer slowly.Stop()
				for done := false; !done; {
					select {
					case <-sent:
						done = true
					case <-slowly.C:
						_, err := server.Read(make([]byte, 200<<10))
						must.NoError(t, err)
					}
				}
				cancel()
			}
			must.Eq(t, !read, <-hung)
			cancel()
			_ = c.conn.Close()
			<-sent
		})
	}
}

// asked reads the file server's next message.
func asked(t *testing.T, server net.Conn) wire.Message {
	t.Helper()
	must.NoError(t, server.SetReadDeadline(time.Now().Add(20*time.Second)))
	m, values, err := wire.ReadMessage(server)
	must.NoError(t, err)
	_, err = io.CopyN(io.Discard, server, int64(values))
	must.NoError(t, err)
	return m
}

func answer(t *testing.T, server net.Conn, to wire.Message) {
	t.Helper()
	must.NoError(t, wire.Write(server, wire.Message{Type: wire.Answer, Number: to.Number}))
}

// looks runs hangs until there were many more looks than make a hang, and gives what came of it.
func looks(t *testing.T, c *client, each func()) (hung bool) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	return c.hangs(ctx, func() {
		if n++; n >= 3*silentFor {
			cancel()
		}
		each()
	})
}

// A feeder that stalls itself does not take the file server for the one. What counts is what the file server is waited for.
func TestAFeederThatStallsKillsNobody(t *testing.T) {
	frame := func(t *testing.T) []byte {
		var b bytes.Buffer
		must.NoError(t, wire.Write(&b, wire.Message{Type: wire.Set, Number: 1 << 40, Dir: "d", Fields: []wire.Field{{Path: "v", Size: 1000}}}, make([]byte, 1000)))
		return b.Bytes()
	}
	t.Run("in the midst of a message", func(t *testing.T) {
		t.Parallel()
		c, server := socketPair(t)
		c.writing.Lock()
		all := frame(t)
		_, err := parts{c}.Write(all[:500])
		must.NoError(t, err)
		_, err = io.ReadFull(server, make([]byte, 500))
		must.NoError(t, err)
		must.False(t, looks(t, c, c.ping))

		// It goes on, and the file server does not take it.
		_, err = parts{c}.Write(all[500:])
		must.NoError(t, err)
		must.True(t, looks(t, c, c.ping))
		c.writing.Unlock()
	})
	t.Run("before a message", func(t *testing.T) {
		t.Parallel()
		c, _ := socketPair(t)
		c.mu.Lock()
		c.waiting[1] = &request{answer: make(chan wire.Message, 1)} // not sent
		c.mu.Unlock()
		must.False(t, looks(t, c, func() {}))
	})
	t.Run("between messages", func(t *testing.T) {
		t.Parallel()
		c, server := socketPair(t)
		sent, err := c.send(wire.Message{Type: wire.Ping})
		must.NoError(t, err)
		answer(t, server, asked(t, server))
		<-sent
		must.False(t, looks(t, c, func() {}))
	})
	t.Run("and the file server", func(t *testing.T) { // what it was asked it does not do
		t.Parallel()
		c, server := socketPair(t)
		_, err := c.send(wire.Message{Type: wire.Ping})
		must.NoError(t, err)
		asked(t, server)
		must.True(t, looks(t, c, func() {}))
	})
}

// A look that comes after a pause of the feeder's own says little; but if all do, a file server that hangs is found, though later.
func TestHowLongIsTooLong(t *testing.T) {
	for name, c := range map[string]struct {
		since []time.Duration // between looks, of which the last say the same over and over
		busy  bool
		looks int
	}{
		"in time":         {[]time.Duration{pingEvery}, false, silentFor},
		"a bit late":      {[]time.Duration{3 * pingEvery}, false, silentFor},
		"after one pause": {[]time.Duration{time.Minute, pingEvery}, false, silentFor + 1},
		"a pause between": {[]time.Duration{pingEvery, pingEvery, time.Minute, pingEvery}, false, silentFor + 1},
		"pauses alone":    {[]time.Duration{2 * time.Second}, false, busyFor},
		"busy":            {[]time.Duration{pingEvery}, true, busyFor},
	} {
		t.Run(name, func(t *testing.T) {
			var s silence
			s.look(false, pingEvery)
			s.look(true, pingEvery) // from here on it does nothing
			looks := 0
			for ; !s.tooLong(func() bool { return c.busy }); looks++ {
				s.look(false, c.since[min(looks, len(c.since)-1)])
			}
			must.Eq(t, c.looks, looks)
		})
	}
}

// A file server that hangs with a full socket does not keep the feeder from finding it.
func TestAPingDoesNotWaitForRoom(t *testing.T) {
	t.Parallel()
	c, _ := socketPair(t)
	raw, err := c.conn.SyscallConn()
	must.NoError(t, err)
	must.NoError(t, raw.Control(func(fd uintptr) {
		for err == nil {
			err = unix.Sendto(int(fd), make([]byte, 100), unix.MSG_DONTWAIT, nil)
		}
	}))
	must.ErrorIs(t, err, unix.EAGAIN)
	must.True(t, looks(t, c, c.ping))
}

// Requests end with the file server that hangs, and the error says what was done.
func TestAHangEndsRequests(t *testing.T) {
	t.Parallel()
	c, _ := socketPair(t)
	err := c.unlessHung(t.Context(), func(ctx context.Context) error { return c.declare(ctx, Directory{Name: "a", Mode: 0o400}) })
	must.ErrorIs(t, err, errHung)
	must.ErrorContains(t, err, "killed process 1073741824")
}

// fedBy is a feeder that has nobody to connect by itself.
func fedBy(t *testing.T, c *client) *Feeder {
	f := &Feeder{
		cfg: Config{Feeder: "docker", Log: hclog.NewNullLogger()}, home: home{t.TempDir()}, ended: make(chan struct{}),
		dirs: map[string]*kept{}, changed: make(chan struct{}), client: c,
	}
	return f
}

// A directory that is withdrawn while a new file server is told of it does not stay there for ever.
func TestAWithdrawalMeetsAnotherFileServer(t *testing.T) {
	t.Parallel()
	c, server := socketPair(t)
	f := fedBy(t, nil)
	f.dirs["a"], f.dirs["b"] = &kept{Directory: Directory{Name: "a", Mode: 0o400}}, &kept{Directory: Directory{Name: "b", Mode: 0o400}}
	fed := make(chan error, 1)
	go func() { fed <- f.refeed(t.Context(), c) }()
	m := asked(t, server)
	must.Eq(t, "a", m.Directory.Name)
	must.NoError(t, f.Withdraw(t.Context(), "a"))
	answer(t, server, m)
	m = asked(t, server)
	must.Eq(t, wire.Withdraw, m.Type)
	must.Eq(t, "a", m.Dir)
	answer(t, server, m)
	m = asked(t, server)
	must.Eq(t, "b", m.Directory.Name)
	answer(t, server, m)
	must.NoError(t, <-fed)
}

// A start that gives up waiting leaves no directory at a file server that was only slow.
func TestADirectoryThatNobodyWaitsForIsWithdrawn(t *testing.T) {
	t.Parallel()
	c, server := socketPair(t)
	f := fedBy(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	declared := make(chan error, 1)
	go func() {
		_, err := f.Declare(ctx, Directory{Name: "a"})
		declared <- err
	}()
	must.Eq(t, wire.Declare, asked(t, server).Type)
	cancel()
	must.ErrorIs(t, <-declared, context.Canceled)
	m := asked(t, server)
	must.Eq(t, wire.Withdraw, m.Type)
	must.Eq(t, "a", m.Dir)
	must.True(t, f.idle())
}

// After a connection that broke, a file server that has later values than an earlier feeder's journal keeps them.
func TestRestoredValuesTakeNobodysPlace(t *testing.T) {
	t.Parallel()
	c, server := socketPair(t)
	f := fedBy(t, c)
	f.dirs["a"] = &kept{Directory: Directory{Name: "a", Mode: 0o400}}
	done := make(chan error, 1)
	go func() { done <- f.Restore(t.Context(), "a", fields("v", "x"), time.Now()) }()
	m := asked(t, server)
	must.True(t, m.Type == wire.Fresh && m.OrLater)
	answer(t, server, m)
	must.NoError(t, <-done)
	for _, want := range []wire.Type{wire.Fresh, wire.Set} {
		go func() { done <- f.refeed(t.Context(), c) }()
		m = asked(t, server)
		must.Eq(t, wire.Declare, m.Type)
		answer(t, server, m)
		m = asked(t, server)
		must.Eq(t, want, m.Type)
		must.Eq(t, want == wire.Fresh, m.OrLater)
		answer(t, server, m)
		must.NoError(t, <-done)
		if want == wire.Fresh { // a look of its own
			go func() { done <- f.Set(t.Context(), "a", fields("v", "y"), time.Now()) }()
			answer(t, server, asked(t, server))
			must.NoError(t, <-done)
		}
	}
}

// What a file server has not taken it gets again with the next look, of whatever version it is itself. That it is current is said of
// what it has taken.
func TestWhatWasRefusedIsSetAgain(t *testing.T) {
	t.Parallel()
	c, server := socketPair(t)
	f := fedBy(t, c)
	f.dirs["a"] = &kept{Directory: Directory{Name: "a", Mode: 0o400}}
	done := make(chan error, 1)
	looked := func(fields []Field) {
		go func() {
			if fields == nil {
				done <- f.Fresh(t.Context(), "a", time.Now())
			} else {
				done <- f.Set(t.Context(), "a", fields, time.Now())
			}
		}()
	}
	step := func(want wire.Type, refuse string) {
		t.Helper()
		m := asked(t, server)
		must.Eq(t, want, m.Type)
		must.NoError(t, wire.Write(server, wire.Message{Type: wire.Answer, Number: m.Number, Error: refuse}))
		if refuse == "" {
			must.NoError(t, <-done)
		} else {
			must.EqError(t, <-done, refuse)
		}
	}
	looked(fields("v", "x"))
	step(wire.Set, "")
	looked(nil)
	step(wire.Fresh, "")
	looked(fields("v", "y"))
	step(wire.Set, "no room")
	for range 2 {
		looked(nil)
		step(wire.Set, "no room")
	}
	looked(nil)
	step(wire.Set, "")
	looked(nil)
	step(wire.Fresh, "")

	// What no file server could take is not sent, and what was there before is not current.
	must.ErrorContains(t, f.Set(t.Context(), "a", fields("..", "z"), time.Now()), "cannot be the name of a file")
	must.ErrorContains(t, f.Fresh(t.Context(), "a", time.Now()), "cannot be the name of a file")

	// Another file server does not have what the one before had.
	looked(fields("v", "z"))
	step(wire.Set, "")
	go func() { done <- f.refeed(t.Context(), c) }()
	answer(t, server, asked(t, server))
	m := asked(t, server)
	must.Eq(t, wire.Set, m.Type)
	must.NoError(t, wire.Write(server, wire.Message{Type: wire.Answer, Number: m.Number, Error: "no room"}))
	must.NoError(t, <-done)
	looked(nil)
	step(wire.Set, "")
}

// What is lost while nobody takes it is told soon after, also when nothing comes any more.
func TestWhatIsLostIsToldSoon(t *testing.T) {
	t.Parallel()
	c, server := socketPair(t)
	for range eventQueue + 3 {
		must.NoError(t, wire.Write(server, wire.Message{Type: wire.Reads, Read: make([]wire.Read, 2)}))
	}
	ping := func() {
		sent, err := c.send(wire.Message{Type: wire.Ping})
		must.NoError(t, err)
		answer(t, server, asked(t, server))
		<-sent
	}
	ping()
	for len(c.events) > 0 { // from here on there is room
		must.Zero(t, (<-c.events).Lost)
	}
	ping()
	must.Eq(t, 6, (<-c.events).Lost)
}
