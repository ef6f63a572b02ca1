package vault

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// mount is one secrets engine, as the server describes it. The zero mount is one whose type is
// unknown to the task's token.
type mount struct {
	path string // with a slash at the end
	typ  string
	v2   bool // KV version 2
	at   time.Time

	unlisted unlisted // of the zero mount, once a request was refused for it
}

func (m mount) known() bool { return m.typ != "" }

// isKV reports whether a write would overwrite what somebody stored.
func (m mount) isKV() bool { return m.typ == "kv" || m.typ == "generic" || m.typ == "cubbyhole" }

// same reports whether m is read in the same way as o.
func (m mount) same(o mount) bool { return m.path == o.path && m.typ == o.typ && m.v2 == o.v2 }

// mountCache remembers what is mounted where, by namespace. It is shared by all tasks: what a
// mount is, is no secret to who may use it, and what a task may read the server decides at each
// read. Each token is shown those mounts only that it has a right on, so what different tokens see
// is merged, and a miss is asked again with the token at hand. That something is not there, or not
// visible, is never remembered.
type mountCache struct {
	maxAge time.Duration

	mu      sync.Mutex
	mounts  map[mountKey]mount
	flights map[mountKey]chan struct{} // look-ups under way, by namespace and first path element
}

type mountKey struct{ namespace, path string }

func newMountCache(maxAge time.Duration) mountCache {
	return mountCache{maxAge: maxAge, mounts: map[mountKey]mount{}, flights: map[mountKey]chan struct{}{}}
}

// find gives the longest mount that path is under.
func (c *mountCache) find(namespace, path string) (mount, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.findLocked(namespace, path)
}

func (c *mountCache) findLocked(namespace, path string) (mount, bool) {
	for prefix := path + "/"; prefix != ""; prefix = parent(prefix) {
		key := mountKey{namespace, prefix}
		m, ok := c.mounts[key]
		if !ok {
			continue
		}
		if time.Since(m.at) < c.maxAge {
			return m, true
		}
		delete(c.mounts, key)
	}
	return mount{}, false
}

// parent of "a/b/" is "a/", and of "a/" it is "".
func parent(prefix string) string {
	return prefix[:strings.LastIndexByte(prefix[:len(prefix)-1], '/')+1]
}

func (c *mountCache) put(namespace string, m mount) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mounts[mountKey{namespace, m.path}] = m
}

func (c *mountCache) drop(namespace string, m mount) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.mounts, mountKey{namespace, m.path})
}

// lead waits until path's mount is in the cache, or until it is this caller's turn to ask for it:
// then done is not nil, and must be called after. Secrets that are fetched at once from one mount
// make one look-up so (S3).
func (c *mountCache) lead(ctx context.Context, namespace, path string) (m mount, done func(), err error) {
	first, _, _ := strings.Cut(path, "/")
	key := mountKey{namespace, first}
	for {
		c.mu.Lock()
		if m, ok := c.findLocked(namespace, path); ok {
			c.mu.Unlock()
			return m, nil, nil
		}
		flight, busy := c.flights[key]
		if !busy {
			flight = make(chan struct{})
			c.flights[key] = flight
			c.mu.Unlock()
			return mount{}, func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				delete(c.flights, key)
				close(flight)
			}, nil
		}
		c.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
			return mount{}, nil, secrets.Errorf(secrets.Outage, "look up the mount of %s: %w", path, context.Cause(ctx))
		}
	}
}

// mountOf gives the mount that path is on: from the cache, else as the server tells this token.
// The zero mount means that the server does not tell; refused says that this is for want of rights
// (or of a mount: the server makes no difference).
func (v *Client) mountOf(ctx context.Context, tok secrets.Token, namespace, path string) (m mount, cached, refused bool, err error) {
	if m, ok := v.mounts.find(namespace, path); ok {
		return m, true, false, nil
	}
	// Those who wait for another's look-up wait no longer than one request may take: else a server
	// that hangs would be tried by one after the other.
	waitCtx, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	m, done, err := v.mounts.lead(waitCtx, namespace, path)
	if err != nil {
		return mount{}, false, false, err
	}
	if done == nil {
		return m, true, false, nil
	}
	defer done()
	m, refused, err = v.askMount(ctx, tok, namespace, path)
	return m, false, refused, err
}

// askMount asks the server, and remembers what it answers.
func (v *Client) askMount(ctx context.Context, tok secrets.Token, namespace, path string) (m mount, refused bool, err error) {
	c := call{
		request: request{operation: "look up the mount of " + path, token: tok.Value, namespace: namespace, path: "sys/internal/ui/mounts/" + path},
	}
	r, err := v.do(ctx, c)
	if err != nil {
		return mount{}, false, err
	}
	switch {
	case r.ok():
		m := mount{at: r.at}
		m.path, _ = r.body.Data["path"].(string)
		m.typ, _ = r.body.Data["type"].(string)
		options, _ := r.body.Data["options"].(map[string]any)
		m.v2 = m.typ == "kv" && options["version"] == "2"
		// An answer about some other place (a path that begins with a namespace, say) is no
		// ground to map paths on.
		if m.path == "" || m.typ == "" || !strings.HasPrefix(path+"/", m.path) {
			return mount{}, false, nil
		}
		v.mounts.put(namespace, m)
		return m, false, nil
	case kindOf(r.status) == secrets.Outage:
		return mount{}, false, c.refusal(r)
	case r.status == http.StatusForbidden:
		return mount{}, true, nil
	default: // a server that speaks most of the API, but not this
		return mount{}, false, nil
	}
}
