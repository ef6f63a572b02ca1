//go:build long

package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// Two allocations whose stagger, splay and waits fit are restarted ten times, one after the other, behind a load balancer
// that goes by their health: no request of a client fails.
func TestLongFinishing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.SetTimeout(25 * time.Minute)
	l.PutColour("finishing", "0")
	l.Allow("finishing", "secret/data/finishing")
	job := l.SubmitFile("finishing", nil)
	allocs, err := job.AllRunning(l.Ctx, 2)
	require.NoError(t, err)
	var servers []string
	for _, alloc := range allocs {
		l.Lines(alloc, lab.App, "listening ", 1)
		servers = append(servers, l.PortOf(alloc, "http"))
		events, err := alloc.Events(l.Ctx, lab.App)
		require.NoError(t, err)
		for _, event := range events {
			require.NotContains(t, event, "may be restarted at the same time")
		}
	}
	balancer, err := l.NewHAProxy(l.Ctx, "haproxy", servers...)
	require.NoError(t, err)
	t.Cleanup(balancer.Close)

	clients := load(l, balancer.Addr)
	for n := 1; n <= 10; n++ {
		l.PutColour("finishing", fmt.Sprint(n))
		for _, alloc := range allocs {
			l.Lines(alloc, lab.App, "listening ", n+1)
		}
		l.Until("both to be healthy again", func() error {
			up, err := balancer.Up(l.Ctx)
			if err == nil && up != 2 {
				err = fmt.Errorf("%d are", up)
			}
			return err
		})
		_, failed := clients.soFar()
		require.Empty(t, failed, "rotation %d", n)
	}
	clients.stop()
	served, failed := clients.soFar()
	t.Logf("requests served, by allocation: %v", served)
	require.Empty(t, failed)
	require.Len(t, served, 2, "both have served")
	for _, alloc := range allocs {
		l.NotRestarted(alloc, lab.App)
	}
}

// clients send requests until they are stopped.
type clients struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	served map[string]int // by who answered
	failed []string
}

// load has eight clients send requests, each one after the other.
func load(l *lab.Lab, url string) *clients {
	ctx, cancel := context.WithCancel(l.Ctx)
	c := &clients{cancel: cancel, served: map[string]int{}}
	l.T.Cleanup(c.stop)
	transport := &http.Transport{DisableKeepAlives: true}
	for range 8 {
		c.done.Go(func() {
			for ctx.Err() == nil {
				by, err := get(context.WithoutCancel(ctx), transport, url)
				c.mu.Lock()
				if err != nil {
					c.failed = append(c.failed, time.Now().Format(time.StampMilli)+" "+err.Error())
				} else {
					c.served[by]++
				}
				c.mu.Unlock()
			}
		})
	}
	return c
}

func get(ctx context.Context, transport http.RoundTripper, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

// stop ends them, once what they have asked is answered.
func (c *clients) stop() {
	c.cancel()
	c.done.Wait()
}

// soFar is what has come of the requests.
func (c *clients) soFar() (served map[string]int, failed []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.served), slices.Clone(c.failed)
}
