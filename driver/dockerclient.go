package driver

import (
	"context"
	"fmt"
	"sync"

	"github.com/docker/docker/client"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
)

// client is a Docker client like the inner driver's.
func (e dockerEndpoint) client() (*client.Client, error) {
	opts := []client.Opt{client.WithAPIVersionNegotiation()}
	switch {
	case e.host == "":
		opts = append(opts, client.FromEnv)
	case e.cert+e.key+e.ca != "":
		opts = append(opts, client.WithHost(e.host), client.WithTLSClientConfig(e.ca, e.cert, e.key))
	default:
		opts = append(opts, client.WithHost(e.host))
	}
	return client.NewClientWithOpts(opts...)
}

// startClient is the Docker client of all starts: it keeps its connections and the API version that was negotiated, so that a
// start asks the engine only what it needs to know. The zero value has none yet.
type startClient struct {
	mu       sync.Mutex // guards what follows
	endpoint dockerEndpoint
	client   *client.Client
	images   map[string]launcher.ImageConfig // by id, which is of the content
}

// get is the client for an endpoint. It is shared once it knows the engine's API version: while a client finds that out it holds a
// lock that knows no context, and no start is to wait for another's.
func (s *startClient) get(ctx context.Context, e dockerEndpoint) (*client.Client, error) {
	if known := s.of(e); known != nil {
		return known, nil
	}
	made, err := e.client()
	if err != nil {
		return nil, err
	}
	ping, err := made.Ping(ctx)
	if err != nil {
		_ = made.Close()
		return nil, fmt.Errorf("ask the Docker engine for its API version: %w", err)
	}
	made.NegotiateAPIVersionPing(ping)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil && s.endpoint == e { // of a start that was as early
		_ = made.Close()
		return s.client, nil
	}
	s.closeLocked()
	s.endpoint, s.client = e, made
	return made, nil
}

// of is the client that is there for an endpoint, or nil.
func (s *startClient) of(e dockerEndpoint) *client.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.endpoint != e {
		return nil
	}
	return s.client
}

// failed forgets a client that a start has failed with: the engine may have been replaced, and then its API version and its
// certificates are to be found out again. Starts that still use it go on.
func (s *startClient) failed(c *client.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == c {
		s.closeLocked()
	}
}

// close gives the connections back.
func (s *startClient) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked()
}

// closeLocked closes the connections that nobody uses, and lets the others be closed once they are idle.
func (s *startClient) closeLocked() {
	if s.client != nil {
		_ = s.client.Close() // always nil
	}
	s.client, s.images = nil, nil
}

// maxImages bounds the images whose configuration is kept: a node has fewer.
const maxImages = 1024

// image is what an image says about what to run. The id names the content, so it is asked for once.
func (s *startClient) image(ctx context.Context, c *client.Client, id string) (launcher.ImageConfig, error) {
	s.mu.Lock()
	known, ok := s.images[id]
	s.mu.Unlock()
	if ok {
		return known, nil
	}
	inspected, err := c.ImageInspect(ctx, id)
	if err != nil {
		return launcher.ImageConfig{}, fmt.Errorf("inspect the task's image: %w", err)
	}
	var of launcher.ImageConfig
	if inspected.Config != nil {
		of = launcher.ImageConfig{Entrypoint: inspected.Config.Entrypoint, Cmd: inspected.Config.Cmd}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != c { // another engine may be asked by now
		return of, nil
	}
	if s.images == nil || len(s.images) >= maxImages {
		s.images = map[string]launcher.ImageConfig{}
	}
	s.images[id] = of
	return of, nil
}
