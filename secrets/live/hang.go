package live

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

// A file server hangs that does not do for a second what it was asked for. What only it can be waited for counts: not the time
// in which this process was itself stopped, or had no time to read, or to write the rest of a message.
const (
	pingEvery = 250 * time.Millisecond
	// silentFor is how many looks in turn may find that the file server has done nothing.
	silentFor = 4
	// busyFor is the same for one that is no more than slow, on a machine with more to do than it can.
	busyFor = 20
	// pauseOf is how long after the last look one comes before which this process did not run.
	pauseOf = silentFor * pingEvery
)

// silence is the looks in turn that found nothing done, and how many of them came in time.
type silence struct{ looks, inTime int }

// look counts one. since is the time since the last.
func (s *silence) look(done bool, since time.Duration) {
	if done {
		*s = silence{}
		return
	}
	s.looks++
	if since < pauseOf {
		s.inTime++
	}
}

func (s *silence) tooLong(busy func() bool) bool {
	return s.looks >= busyFor || s.inTime >= silentFor && !busy()
}

// errHung is told with what was done about it.
var errHung = errors.New("the file server hangs")

// watch pings until the connection ends, ctx does, or the file server hangs: then it is killed, which is errHung.
func (c *client) watch(ctx context.Context) error {
	if c.hangs(ctx, c.ping) {
		return c.killHung()
	}
	return nil
}

// unlessHung makes requests. A file server that hangs meanwhile is killed, and they end.
func (c *client) unlessHung(ctx context.Context, requests func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var hung error
	var watch sync.WaitGroup
	watch.Go(func() {
		if c.hangs(ctx, func() {}) {
			hung = c.killHung()
			cancel()
		}
	})
	err := requests(ctx)
	cancel()
	watch.Wait()
	if hung != nil {
		return hung
	}
	return err
}

func (c *client) killHung() error {
	if err := c.peer.kill(); err != nil {
		return fmt.Errorf("%w, and cannot be ended: %w", errHung, err)
	}
	return fmt.Errorf("%w: killed process %d", errHung, c.peer.pid)
}

// hangs waits until the file server hangs, or until the connection or ctx ends. each is called after each look.
func (c *client) hangs(ctx context.Context, each func()) bool {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	var silent silence
	last, taken := time.Now(), c.taken(c.queued())
	for {
		select {
		case <-ctx.Done():
			return false
		case <-c.ended:
			return false
		case <-ticker.C:
		}
		queued, now := c.queued(), time.Now()
		since, before := now.Sub(last), taken
		last, taken = now, c.taken(queued)
		silent.look(c.heard.Swap(false) || c.unread() || taken > before || !c.hasWork(queued), since)
		if silent.tooLong(c.peer.busy) {
			return true
		}
		each()
	}
}

// hasWork reports whether the file server has something to do: to read what is in the socket, or else to answer. While a message is
// being written of which it has all that there is, it waits for this process.
func (c *client) hasWork(queued int) bool {
	if queued > 0 {
		return true
	}
	if !c.writing.TryLock() {
		return false
	}
	c.writing.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.waiting {
		if r.sent {
			return true
		}
	}
	return false
}

// taken grows when the file server reads. It is no number of bytes, for those in the socket are counted with what they take there.
func (c *client) taken(queued int) int64 { return c.wrote.Load() - int64(queued) }

// queued is what the file server has not read yet of what was written.
func (c *client) queued() int { return c.inSocket(unix.SIOCOUTQ) }

// unread reports whether something of the file server's has come that this process had no time to read.
func (c *client) unread() bool { return c.inSocket(unix.SIOCINQ) > 0 }

func (c *client) inSocket(request uint) (n int) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if n, err = unix.IoctlGetInt(int(fd), request); err != nil {
			n = 0
		}
	})
	return n
}

// ping does not wait: neither for the answer, nor for a request that is being written, nor for room in the socket. A file server
// that has something to read is asked enough.
func (c *client) ping() {
	if !c.writing.TryLock() {
		return
	}
	defer c.writing.Unlock()
	if c.queued() > 0 {
		return
	}
	number := c.last.Add(1)
	if frame, err := wire.NewFrame(wire.Message{Type: wire.Ping, Number: number}); err == nil {
		_, _ = c.write(number, frame)
	}
}
