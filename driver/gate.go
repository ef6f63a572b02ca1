package driver

import (
	"context"
	"sync"
)

// gate holds calls back while a task is between two processes. The zero gate is open.
type gate struct {
	mu   sync.Mutex
	shut chan struct{} // closed when the gate opens again; nil while it is open
	n    int           // how often it was closed
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = make(chan struct{})
	g.n++
}

// passages is how often the gate has been closed, and whether it is.
func (g *gate) passages() (n int, shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n, g.shut != nil
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shut)
	g.shut = nil
}

// wait returns once the gate is open.
func (g *gate) wait(ctx context.Context) error {
	for {
		g.mu.Lock()
		shut := g.shut
		g.mu.Unlock()
		if shut == nil {
			return nil
		}
		select {
		case <-shut:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
