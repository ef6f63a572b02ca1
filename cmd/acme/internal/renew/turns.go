package renew

import (
	"context"
	"slices"
	"strings"
	"sync"
)

// Turns lets some orders run at once, and never two that have a domain in common: their records in the
// zone would have one name.
type Turns struct {
	most int

	mu      sync.Mutex
	running [][]string
	changed chan struct{} // closed when an order ends
}

// NewTurns lets most orders run at once.
func NewTurns(most int) *Turns { return &Turns{most: most, changed: make(chan struct{})} }

// Take waits for a turn. The function that it returns ends it.
func (t *Turns) Take(ctx context.Context, domains []string) (done func(), err error) {
	names := baseNames(domains)
	for {
		wait, ok := t.try(names)
		if ok {
			return func() { t.end(names) }, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (t *Turns) try(names []string) (wait <-chan struct{}, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !mayRun(t.most, t.running, names) {
		return t.changed, false
	}
	t.running = append(t.running, names)
	return nil, true
}

func (t *Turns) end(names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.running, func(r []string) bool { return slices.Equal(r, names) })
	t.running = slices.Delete(t.running, i, i+1)
	close(t.changed)
	t.changed = make(chan struct{})
}

// mayRun decides whether an order may run beside others.
func mayRun(most int, running [][]string, names []string) bool {
	if len(running) >= most {
		return false
	}
	for _, other := range running {
		for _, name := range other {
			if slices.Contains(names, name) {
				return false
			}
		}
	}
	return true
}

// baseNames are the names whose records prove the domains: a wildcard's is that of its parent.
func baseNames(domains []string) []string {
	names := make([]string, len(domains))
	for i, domain := range domains {
		names[i] = strings.TrimPrefix(domain, "*.")
	}
	slices.Sort(names)
	return slices.Compact(names)
}
