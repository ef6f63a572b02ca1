package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Options say what a cluster is made of. The zero value is Nomad's built-in drivers.
type Options struct {
	// Agent is for the cluster's first agent. What it leaves out comes from the cluster: the name
	// "main", the auth path "jwt-nomad", the Vault, the images.
	Agent AgentOptions
	// Progress is told what is being done, a line each; nil is silence.
	Progress func(line string)
}

// Cluster is a Vault, a MariaDB and a Nomad agent that trusts them, started together.
type Cluster struct {
	Vault   *Vault
	MariaDB *MariaDB
	Images  *Images
	Agent   *Agent

	dir      *workDir
	binDir   string
	plugin   string // empty until an agent wants it
	progress func(string)

	mu         sync.Mutex
	agents     []*Agent
	vaults     []*Vault
	consuls    []*Consul
	registry   *Registry
	registries []*Registry
	rabbit     *RabbitMQ
	postgres   *Postgres
}

// Start starts everything, as much as possible at once. After an error nothing is left running.
func Start(ctx context.Context, opts Options) (_ *Cluster, err error) {
	if err := checkMachine(); err != nil {
		return nil, err
	}
	dir, err := newWorkDir()
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, progress: opts.Progress}
	if c.progress == nil {
		c.progress = func(string) {}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.binDir, err = dir.mkdir("bin"); err != nil {
		return nil, err
	}

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		c.progress("starting Vault")
		c.Vault, err = c.NewVault(gctx, "vault")
		return err
	})
	g.Go(func() (err error) {
		c.progress("starting MariaDB")
		c.MariaDB, err = startMariaDB(gctx, dir.join("mariadb"))
		return err
	})
	g.Go(func() error {
		c.progress("making the images")
		testapp, err := buildTestApp(gctx, c.binDir)
		if err != nil {
			return err
		}
		c.Images, err = makeImages(gctx, filepath.Base(dir.path), testapp)
		return err
	})
	if opts.Agent.Placement != BuiltIn {
		g.Go(func() (err error) {
			c.progress("building the plugin")
			c.plugin, err = buildPlugin(gctx)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	c.progress("starting Nomad")
	c.Agent, err = c.NewAgent(ctx, opts.Agent)
	return c, err
}

// StartVault starts a Vault alone, for tests of programs that need no Nomad.
func StartVault(ctx context.Context) (_ *Cluster, err error) {
	dir, err := newWorkDir()
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, progress: func(string) {}}
	if c.Vault, err = c.NewVault(ctx, "vault"); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// NewVault starts one more Vault, for tests that stop or seal it. It ends with the cluster.
func (c *Cluster) NewVault(ctx context.Context, name string) (*Vault, error) {
	v, err := startVault(ctx, c.dir.join(name))
	if v != nil {
		c.mu.Lock()
		c.vaults = append(c.vaults, v)
		c.mu.Unlock()
	}
	return v, err
}

// NewAgent starts one more Nomad agent, for tests that stop or kill it, or that need a configuration
// of their own. It ends with the cluster, or before by its Close.
func (c *Cluster) NewAgent(ctx context.Context, opts AgentOptions) (*Agent, error) {
	if opts.Name == "" {
		opts.Name = "main"
	}
	if opts.AuthPath == "" {
		opts.AuthPath = "jwt-nomad"
		if opts.Name != "main" {
			opts.AuthPath = "jwt-" + opts.Name
		}
	}
	if opts.Vault == nil {
		opts.Vault = c.Vault
	}
	if opts.Placement != BuiltIn && c.plugin == "" {
		plugin, err := buildPlugin(ctx)
		if err != nil {
			return nil, err
		}
		c.plugin = plugin
	}
	a, err := newAgent(c, opts)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.agents = append(c.agents, a)
	c.mu.Unlock()
	if err := a.Start(ctx); err != nil {
		return a, err
	}
	if opts.Vault == nil {
		return a, nil
	}
	return a, opts.Vault.TrustNomad(ctx, a)
}

// Registry is the cluster's Docker registry, started when first asked for.
func (c *Cluster) Registry(ctx context.Context) (*Registry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.registry == nil {
		r, err := startRegistry(ctx, c.dir.join("registry"))
		if err != nil {
			return nil, err
		}
		c.registry = r
		c.registries = append(c.registries, r)
	}
	return c.registry, nil
}

// NewRegistry starts one more registry, for tests that stop it. It ends with the cluster.
func (c *Cluster) NewRegistry(ctx context.Context, name string) (*Registry, error) {
	r, err := startRegistry(ctx, c.dir.join(name))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.registries = append(c.registries, r)
	c.mu.Unlock()
	return r, nil
}

// NewHAProxy starts a load balancer before HTTP servers at these addresses. It ends with the test that closes it.
func (c *Cluster) NewHAProxy(ctx context.Context, name string, servers ...string) (*HAProxy, error) {
	return startHAProxy(ctx, c.dir.join(name), servers)
}

// RabbitMQ is the cluster's broker, started when first asked for.
func (c *Cluster) RabbitMQ(ctx context.Context) (*RabbitMQ, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rabbit == nil {
		r, err := startRabbitMQ(ctx, c.dir.join("rabbitmq"))
		if err != nil {
			return nil, err
		}
		c.rabbit = r
	}
	return c.rabbit, nil
}

// Postgres is the cluster's PostgreSQL, started when first asked for.
func (c *Cluster) Postgres(ctx context.Context) (*Postgres, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.postgres == nil {
		p, err := startPostgres(ctx, c.dir.join("postgres"))
		if err != nil {
			return nil, err
		}
		c.postgres = p
	}
	return c.postgres, nil
}

// Dir is the directory of everything: data, configurations and logs.
func (c *Cluster) Dir() string { return c.dir.path }

// Close stops the jobs, then the servers, and removes every trace.
func (c *Cluster) Close() error {
	var errs []error
	for _, a := range c.agents {
		errs = append(errs, a.Close())
	}
	for _, r := range c.registries {
		r.Stop()
		errs = append(errs, r.removeImages(context.Background()))
	}
	if c.rabbit != nil {
		c.rabbit.kill()
	}
	if c.postgres != nil {
		c.postgres.Stop()
	}
	if c.MariaDB != nil {
		c.MariaDB.proc.kill()
	}
	for _, s := range c.consuls {
		s.proc.kill()
	}
	for _, v := range c.vaults {
		v.proc.kill()
	}
	errs = append(errs, c.dir.remove())
	return errors.Join(errs...)
}

// buildPlugin makes bin/nomad-driver-secrets anew, by the one recipe there is, so that no stale one
// is ever tested.
func buildPlugin(ctx context.Context) (string, error) {
	root, err := RepoRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "make", "--no-print-directory", "build")
	cmd.Dir = root
	// Under `make e2e`, the outer make's flags and job server are not for this one.
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make build: %w\n%s", err, out)
	}
	return filepath.Join(root, "bin", "nomad-driver-secrets"), nil
}
