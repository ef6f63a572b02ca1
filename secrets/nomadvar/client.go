package nomadvar

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Config is what the operator says (docs/agent.md, "Plugin options": `nomad`).
type Config struct {
	// File is the file of tasks' identities, below the task directory.
	File string
	// Address is an agent's, for a node that has no socket of the task API; empty: there is none.
	Address                               string
	CACert, CAPath, ClientCert, ClientKey string
	TLSServerName                         string
	TLSSkipVerify                         bool
}

// Client is the provider: it can be read and waited at. Safe for concurrent use. Close gives its idle connections back.
type Client struct {
	file  string
	tasks *api.Client // of the task API
	http  *http.Client
	agent *agent // nil: no address is given

	socketComes time.Duration // a wait gives a restarted agent this long to make its sockets
	pause       time.Duration // between two looks of one wait
}

// New checks cfg, and asks nobody anything.
func New(cfg Config) (*Client, error) {
	c := &Client{file: cfg.File, socketComes: 10 * time.Second, pause: time.Second}
	if c.file == "" {
		c.file = DefaultFile
	}
	s := &sockets{}
	c.http = newHTTP(&http.Transport{DialContext: s.dial, MaxIdleConnsPerHost: idleConns, IdleConnTimeout: 30 * time.Second})
	var err error
	// The address is only what requests are addressed to: the connections are to sockets.
	if c.tasks, err = api.NewClient(&api.Config{Address: "http://nomad", HttpClient: c.http}); err != nil {
		return nil, secrets.Errorf(secrets.Invalid, "make a client of Nomad's task API: %w", err)
	}
	if cfg.Address != "" {
		if err := CheckAddress(cfg.Address); err != nil {
			return nil, err
		}
		c.agent = &agent{cfg: cfg}
	}
	return c, nil
}

// Close gives back the idle connections. Requests under way go on.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	if c.agent != nil {
		c.agent.mu.Lock()
		defer c.agent.mu.Unlock()
		c.agent.closeIdle()
	}
}

// Read reads a variable with the task's own identity.
func (c *Client) Read(ctx context.Context, _ secrets.Token, req secrets.Request) (secrets.Answer, error) {
	at := time.Now()
	v, _, err := c.get(ctx, req, blocking{})
	switch {
	case err != nil:
		return secrets.Answer{}, err
	case v == nil:
		return secrets.Answer{}, notFound(req)
	}
	fields := make(map[string]any, len(v.Items))
	for name, value := range v.Items {
		fields[name] = value
	}
	return secrets.Answer{Kind: secrets.Static, Fields: secrets.NewFields(fields), Revision: revisionOf(v.ModifyIndex), At: at}, nil
}

// blocking says what a query waits for; zero: for nothing.
type blocking struct {
	beyond uint64 // an index above this one
	atMost time.Duration
}

// get asks for a variable; nil: there is none. The index is the answer's.
func (c *Client) get(ctx context.Context, req secrets.Request, wait blocking) (*api.Variable, uint64, error) {
	id, err := Identify(c.file, req.Task)
	if err != nil {
		return nil, 0, err
	}
	opts := (&api.QueryOptions{
		Namespace: req.Namespace, AuthToken: id.Token.Text(), WaitIndex: wait.beyond, WaitTime: wait.atMost,
	}).WithContext(context.WithValue(ctx, taskKey{}, req.Task))

	v, meta, err := c.peek(c.tasks, req.Path, opts)
	if _, none := errors.AsType[*socketError](err); none && c.agent != nil {
		client, failed := c.agent.api()
		if failed != nil {
			return nil, 0, failed
		}
		v, meta, err = c.peek(client, req.Path, opts)
	}
	if err != nil {
		return nil, 0, explain(err, id, req)
	}
	return v, meta.LastIndex, nil
}

// connections is how often a request is sent again at once whose connection broke: the task that it went by has ended.
const connections = 3

func (c *Client) peek(client *api.Client, path string, opts *api.QueryOptions) (v *api.Variable, meta *api.QueryMeta, err error) {
	for range connections {
		v, meta, err = client.Variables().Peek(path, opts)
		_, none := errors.AsType[*socketError](err)
		if err == nil || none || hasAnswered(err) || opts.Context().Err() != nil {
			break
		}
	}
	return v, meta, err
}
