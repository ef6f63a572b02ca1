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

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

const (
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
	wrote atomic.Int64  // bytes
	last  atomic.Uint64 // request's number
	ended chan struct{} // closed when the reader has ended

	writing sync.Mutex          // held while a message is written
	mu      sync.Mutex          // guards the rest
	waiting map[uint64]*request // by number; nil: the connection broke
}

// request is one that has no answer yet.
type request struct {
	answer chan wire.Message // closed when the connection breaks
	sent   bool              // all of it
}

func newClient(conn *net.UnixConn, peer process) *client {
	c := &client{
		conn: conn, peer: peer, waiting: map[uint64]*request{},
		events: make(chan wire.Message, eventQueue), ended: make(chan struct{}),
	}
	go c.read()
	return c
}

// dial connects to a file server and says hello. One that does not answer is killed, which is errHung.
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
	c := newClient(conn, peer)
	var answer wire.Message
	err = c.unlessHung(ctx, func(ctx context.Context) error {
		answer, err = c.call(ctx, wire.Message{Type: wire.Hello, Feeder: feeder})
		return err
	})
	if err == nil && answer.Server == nil {
		err = errors.New("the file server does not say where it is")
	}
	if err != nil {
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
			close(w.answer)
		}
		c.waiting = nil
	}()
	r := bufio.NewReader(c.conn)
	lost := 0 // reads that came while whoever takes events was busy
	offer := func(m wire.Message) {
		m.Lost += lost
		select {
		case c.events <- m:
			lost = 0
		default: // nothing here may wait
			lost = m.Lost + len(m.Read)
		}
	}
	for {
		m, _, err := wire.ReadMessage(r)
		if err != nil {
			return
		}
		c.heard.Store(true)
		if m.Type != wire.Answer {
			offer(m)
			continue
		}
		if lost > 0 { // maybe there is nothing else to tell for long
			offer(wire.Message{Type: wire.Reads})
		}
		c.mu.Lock()
		w := c.waiting[m.Number]
		delete(c.waiting, m.Number)
		c.mu.Unlock()
		if w != nil {
			w.answer <- m
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

// send sends a request, and waits until that is written.
func (c *client) send(m wire.Message, values ...[]byte) (<-chan wire.Message, error) {
	m.Number = c.last.Add(1)
	frame, err := wire.NewFrame(m, values...)
	if err != nil {
		return nil, refusal(err.Error()) // as the file server would
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.write(m.Number, frame)
}

// write is for who has writing locked.
func (c *client) write(number uint64, frame wire.Frame) (<-chan wire.Message, error) {
	r := &request{answer: make(chan wire.Message, 1)}
	c.mu.Lock()
	if c.waiting == nil {
		c.mu.Unlock()
		return nil, errLost
	}
	c.waiting[number] = r
	c.mu.Unlock()
	if err := frame.Send(parts{c}); err != nil {
		_ = c.conn.Close() // half a message may be on its way
		return nil, fmt.Errorf("%w: %w", errLost, err)
	}
	c.mu.Lock()
	r.sent = true
	c.mu.Unlock()
	return r.answer, nil
}

// parts writes what is long in parts: so it is seen that the file server takes them (taken), and each has a while.
type parts struct{ c *client }

const partLen = 64 << 10

func (p parts) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		_ = p.c.conn.SetWriteDeadline(time.Now().Add(requestTimeout))
		var wrote int
		wrote, err = p.c.conn.Write(b[n:min(len(b), n+partLen)])
		n += wrote
		p.c.wrote.Add(int64(wrote))
	}
	return n, err
}
