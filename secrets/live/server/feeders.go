package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

// feeders accepts connections and serves each until its end.
type feeders struct {
	store    *store
	listener *net.UnixListener
	root     string
	warnings []string // of the start: each feeder is told

	mu    sync.Mutex
	conns map[*conn]bool
	wg    sync.WaitGroup
}

// conn is one feeder's connection. reads, names and lost are the store's.
type conn struct {
	name string
	c    *net.UnixConn
	out  chan wire.Message // answers, wants and log lines
	news chan struct{}     // there is something to report
	end  context.CancelFunc
	ctx  context.Context

	reads []wire.Read
	names int // bytes of the names in reads
	lost  int
}

const (
	queueLen     = 64
	writeTimeout = 5 * time.Second
	maxFeeders   = 64
)

// serve runs until the listener is closed, and then until every connection has ended.
func (f *feeders) serve(ctx context.Context) {
	defer f.wg.Wait()
	for {
		c, err := f.listener.AcceptUnix()
		if err != nil {
			return
		}
		if err := onlyRoot(c); err != nil || f.count() >= maxFeeders {
			_ = c.Close()
			continue
		}
		f.wg.Go(func() { f.serveOne(ctx, c) })
	}
}

func (f *feeders) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

// onlyRoot checks the peer, beside the mode of the socket's directory.
func onlyRoot(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); cerr != nil {
		return cerr
	}
	if err != nil {
		return err
	}
	if peer.Uid != 0 {
		return fmt.Errorf("user %d is not root", peer.Uid)
	}
	return nil
}

func (f *feeders) serveOne(ctx context.Context, uc *net.UnixConn) {
	c := &conn{c: uc, out: make(chan wire.Message, queueLen), news: make(chan struct{}, 1)}
	c.ctx, c.end = context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, func() { _ = uc.Close() })
	f.mu.Lock()
	f.conns[c] = true
	f.mu.Unlock()
	var writer sync.WaitGroup
	writer.Go(func() { c.write(f.store) })

	_ = f.read(c) // its error is told by closing

	c.end()
	writer.Wait()
	stop()
	_ = uc.Close()
	f.store.leave(c, time.Now())
	f.mu.Lock()
	delete(f.conns, c)
	f.mu.Unlock()
}

// read does what the feeder asks for, one by one.
func (f *feeders) read(c *conn) error {
	r := bufio.NewReaderSize(c.c, 4096)
	hello, _, err := wire.ReadMessage(r)
	if err != nil {
		return err
	}
	if hello.Type != wire.Hello {
		return errors.New("the first message is no hello")
	}
	c.name = hello.Feeder
	c.send(wire.Message{Type: wire.Answer, Number: hello.Number, Server: &wire.Server{PID: unix.Getpid(), Root: f.root, Key: f.store.key}})
	for _, w := range f.warnings {
		c.offer(wire.Message{Type: wire.Log, Text: w})
	}
	for {
		m, size, err := wire.ReadMessage(r)
		if err != nil {
			return err
		}
		now := time.Now()
		age := time.Duration(m.AgeMS) * time.Millisecond
		switch m.Type {
		case wire.Declare:
			err = refuseWith(f.store.declare(c, *m.Directory))
		case wire.Set:
			err = f.store.set(c, m, size, r, now)
		case wire.Fresh:
			err = refuseWith(f.store.fresh(c, m.Dir, age, m.OrLater, now))
		case wire.Failed:
			f.store.failed(c, m.Dir)
		case wire.Withdraw:
			f.store.withdraw(c, m.Dir)
		case wire.Ping:
			_ = f.store.empty() // takes the lock that readers need: an answer tells that they get theirs
		default:
			return fmt.Errorf("%s is no request", m.Type)
		}
		answer := wire.Message{Type: wire.Answer, Number: m.Number}
		var no refused
		if errors.As(err, &no) {
			answer.Error = no.Error()
		} else if err != nil {
			return err
		}
		if !c.send(answer) {
			return c.ctx.Err()
		}
	}
}

func refuseWith(err error) error {
	if err != nil {
		return refused{err}
	}
	return nil
}

// send queues an answer. It waits for room: a feeder that does not read gets no more answers.
func (c *conn) send(m wire.Message) bool {
	select {
	case c.out <- m:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// want asks the feeder for a fresh look, unless that would wait.
func (c *conn) want(dir string) bool { return c.offer(wire.Message{Type: wire.Want, Dir: dir}) }

func (c *conn) offer(m wire.Message) bool {
	select {
	case c.out <- m:
		return true
	default:
		return false
	}
}

// wake makes the writer report soon.
func (c *conn) wake() {
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// write sends what is queued, and reports at intervals.
func (c *conn) write(s *store) {
	defer c.end()
	var report <-chan time.Time
	for {
		var m wire.Message
		select {
		case <-c.ctx.Done():
			return
		case m = <-c.out:
		case <-c.news:
			if report == nil {
				report = time.After(reportEvery)
			}
			continue
		case <-report:
			report = nil
			var any bool
			if m, any = s.collect(c); !any {
				continue
			}
		}
		_ = c.c.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := wire.Write(c.c, m); err != nil {
			s.undelivered(c, m)
			return
		}
	}
}

// log gives a line to every feeder's log.
func (f *feeders) log(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		c.offer(wire.Message{Type: wire.Log, Text: line})
	}
}
