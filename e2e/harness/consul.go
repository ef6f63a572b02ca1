package harness

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	consul "github.com/hashicorp/consul/api"
)

// Consul is a real agent, without which Nomad makes no script checks. It keeps nothing: its data are in
// memory.
type Consul struct {
	Addr   string
	Client *consul.Client

	proc *process
}

// NewConsul starts a Consul agent. It ends with the cluster.
func (c *Cluster) NewConsul(ctx context.Context) (*Consul, error) {
	s, err := startConsul(ctx, c.dir.path)
	if s != nil {
		c.mu.Lock()
		c.consuls = append(c.consuls, s)
		c.mu.Unlock()
	}
	return s, err
}

func startConsul(ctx context.Context, dir string) (*Consul, error) {
	bin, err := server("consul")
	if err != nil {
		return nil, err
	}
	args := []string{"agent", "-dev", "-bind=127.0.0.1", "-log-level=info"}
	for _, off := range []string{"dns", "grpc", "grpc-tls", "serf-wan"} {
		args = append(args, "-"+off+"-port=-1")
	}
	var http int
	for flag, port := range map[string]*int{"http": &http, "server": new(int), "serf-lan": new(int)} {
		if *port, err = freePort(); err != nil {
			return nil, err
		}
		args = append(args, "-"+flag+"-port="+strconv.Itoa(*port))
	}
	s := &Consul{Addr: fmt.Sprintf("127.0.0.1:%d", http)}
	if s.Client, err = consul.NewClient(&consul.Config{Address: s.Addr}); err != nil {
		return nil, err
	}
	if s.proc, err = startProcess("consul", filepath.Join(dir, fmt.Sprintf("consul-%d.log", http)), nil, bin, args...); err != nil {
		return nil, err
	}
	return s, Until(ctx, "Consul to have a leader", func() error {
		if err := s.proc.alive(); err != nil {
			return err
		}
		leader, err := s.Client.Status().LeaderWithQueryOptions((&consul.QueryOptions{}).WithContext(ctx))
		if err == nil && leader == "" {
			err = fmt.Errorf("it has none")
		}
		return err
	})
}
