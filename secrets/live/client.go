package live

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

const (
	pingEvery = 250 * time.Millisecond
	// silentFor is how many pings in turn may bring nothing: after that the file server hangs. Pings are counted, not time:
	// a feeder that was itself stopped for a while must not take the file server for the one.
	silentFor = 4

	requestTimeout = 5 * time.Second
	eventQueue     = 32
)

// errLost: the connection broke. What was asked for may or may not be done, and is done again over the next.
var errLost = errors.New("the connection to the file server broke")

// client is one connection to a file server.
type client struct {
	conn   *net.UnixConn
	peer   process
	server wire.Server
	events chan wire.Message // reads, wants and log lines

	heard atomic.Bool
	ended chan struct{} // closed when the reader has ended

	writing sync.Mutex
	mu      sync.Mutex // guards the rest
	last    uint64
	waiting map[uint64]chan wire.Message // by number; nil: the connection broke
}

// dial connects to a file server and says hello. One that does not answer is killed.
func dial(ctx context.Context, socket, feeder string) (*client, error) {
	nc, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	conn := nc.(*net.UnixConn)
	peer, err := peerOf(conn)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("who listens on %s: %w", socket, err)
	}
	c := &client{
		conn: conn, peer: peer, waiting: map[uint64]chan wire.Message{},
		events: make(chan wire.Message, eventQueue), ended: make(chan struct{}),
	}
	go c.read()
	hello, cancel := context.WithTimeout(ctx, silentFor*pingEvery)
	defer cancel()
	answer, err := c.call(hello, wire.Message{Type: wire.Hello, Feeder: feeder})
	if err == nil && answer.Server == nil {
		err = errors.New("the file server does not say where it is")
	}
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = errors.Join(err, peer.kill())
		}
		c.close()
		return nil, err
	}
	c.server = *answer.Server
	return c, nil
}

// close ends the connection and waits for its reader.
func (c *client) close() {
	_ = c.conn.Close()
	<-c.ended
	c.peer.close()
}

func (c *client) read() {
	defer close(c.ended)
	defer close(c.events)
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, w := range c.waiting {
			close(w)
		}
		c.waiting = nil
	}()
	r := bufio.NewReader(c.conn)
	lost := 0 // reads that came while whoever takes events was busy
	for {
		m, _, err := wire.ReadMessage(r)
		if err != nil {
			return
		}
		c.heard.Store(true)
		if m.Type != wire.Answer {
			m.Lost += lost
			select {
			case c.events <- m:
				lost = 0
			default: // nothing here may wait
				lost = m.Lost + len(m.Read)
			}
			continue
		}
		c.mu.Lock()
		w := c.waiting[m.Number]
		delete(c.waiting, m.Number)
		c.mu.Unlock()
		if w != nil {
			w <- m
		}
	}
}

// call sends a request and waits for the answer.
func (c *client) call(ctx context.Context, m wire.Message, values ...[]byte) (wire.Message, error) {
	answer, err := c.send(m, values...)
	if err != nil {
		return wire.Message{}, err
	}
	select {
	case a, ok := <-answer:
		if !ok {
			return wire.Message{}, errLost
		}
		if a.Error != "" {
			return wire.Message{}, refusal(a.Error)
		}
		return a, nil
	case <-ctx.Done():
		return wire.Message{}, fmt.Errorf("%s: the file server does not answer: %w", m.Type, ctx.Err())
	}
}

// refusal is what a file server says no with.
type refusal string

func (r refusal) Error() string { return string(r) }

func (c *client) send(m wire.Message, values ...[]byte) (<-chan wire.Message, error) {
	answer := make(chan wire.Message, 1)
	c.mu.Lock()
	if c.waiting == nil {
		c.mu.Unlock()
		return nil, errLost
	}
	c.last++
	m.Number = c.last
	c.waiting[m.Number] = answer
	c.mu.Unlock()

	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(requestTimeout))
	if err := wire.Write(c.conn, m, values...); err != nil {
		_ = c.conn.Close() // half a message may be on its way
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	return answer, nil
}

// watch pings until the connection ends, ctx does, or the file server hangs, in which case it is killed.
func (c *client) watch(ctx context.Context) (hung bool, err error) {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	silent := 0
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case <-c.ended:
			return false, nil
		case <-ticker.C:
		}
		silent++
		if c.heard.Swap(false) {
			silent = 0
		}
		if silent >= silentFor {
			return true, c.peer.kill()
		}
		c.ping()
	}
}

// ping does not wait: neither for the answer nor for a request that is being written.
func (c *client) ping() {
	if !c.writing.TryLock() {
		return
	}
	c.writing.Unlock()
	_, _ = c.send(wire.Message{Type: wire.Ping})
}

// process is a file server's process. It is named by a descriptor where the kernel has them, so that it is never another.
type process struct{ pid, fd int }

func peerOf(conn *net.UnixConn) (process, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return process{}, err
	}
	var peer *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		return process{}, cerr
	}
	if err != nil {
		return process{}, err
	}
	if peer.Uid != 0 {
		return process{}, fmt.Errorf("user %d, not root", peer.Uid)
	}
	p := process{pid: int(peer.Pid), fd: -1}
	if p.pid == unix.Getpid() || p.pid <= 1 {
		return process{}, fmt.Errorf("process %d is no file server", p.pid)
	}
	if fd, err := unix.PidfdOpen(p.pid, 0); err == nil {
		p.fd = fd
	}
	return p, nil
}

// kill ends the process and waits until it is gone, and with it its hold on everybody who reads.
func (p process) kill() error {
	if p.fd < 0 {
		return unix.Kill(p.pid, unix.SIGKILL)
	}
	if err := unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill the file server, process %d: %w", p.pid, err)
	}
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, 1000)
	return nil
}

func (p process) close() {
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
	}
}
