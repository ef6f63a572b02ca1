package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// VaultCluster is a Vault of several nodes with Raft storage. Vault is all of them: a client of it
// reaches whichever node the proxy gives it, as behind a load balancer that checks nothing, and its
// audit log is that of the leader of the moment. Stop, kill and start single nodes only.
type VaultCluster struct {
	*Vault
	Nodes []*Vault
	Proxy *FaultProxy
}

const raftConfig = `
storage "raft" {
  path    = %q
  node_id = "node%d"
  performance_multiplier = 1 # an election takes a second or two
%s}
listener "tcp" {
  address         = "127.0.0.1:%d"
  cluster_address = "127.0.0.1:%d"
  tls_disable     = true
}
api_addr      = %q
cluster_addr  = "https://127.0.0.1:%[5]d"
disable_mlock = true
ui            = false
log_level     = "info"
`

// NewVaultCluster starts a Vault of n nodes. It ends with the cluster.
func (c *Cluster) NewVaultCluster(ctx context.Context, name string, n int) (*VaultCluster, error) {
	bin, err := server("vault")
	if err != nil {
		return nil, err
	}
	dir, err := c.dir.mkdir(name)
	if err != nil {
		return nil, err
	}
	audit := filepath.Join(dir, "audit.log")
	vc := &VaultCluster{}
	var addrs []string
	for i := range n {
		node, err := newRaftNode(bin, dir, i, addrs)
		if err != nil {
			return nil, err
		}
		node.AuditPath = audit
		vc.Nodes = append(vc.Nodes, node)
		addrs = append(addrs, node.Addr)
	}
	c.mu.Lock()
	c.vaults = append(c.vaults, vc.Nodes...)
	c.mu.Unlock()
	if err := vc.start(ctx); err != nil {
		return nil, err
	}
	first := vc.Nodes[0]
	if err := first.enableAudit(ctx); err != nil {
		return nil, err
	}
	if vc.Proxy, err = NewFaultProxy(nil, addrs...); err != nil {
		return nil, err
	}
	vc.Vault = &Vault{Addr: vc.Proxy.Addr, RootToken: first.RootToken, AuditPath: audit, LogPath: first.LogPath}
	vc.client, err = vc.ClientWithToken(first.RootToken)
	return vc, err
}

func newRaftNode(bin, dir string, i int, others []string) (*Vault, error) {
	api, err := freePort()
	if err != nil {
		return nil, err
	}
	cluster, err := freePort()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, fmt.Sprintf("node%d", i))
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, err
	}
	v := &Vault{
		Addr:    fmt.Sprintf("http://127.0.0.1:%d", api),
		LogPath: filepath.Join(dir, "vault.log"),
		dir:     dir,
		bin:     bin,
	}
	join := ""
	for _, other := range others {
		join += fmt.Sprintf("  retry_join {\n    leader_api_addr = %q\n  }\n", other)
	}
	hcl := fmt.Sprintf(raftConfig, data, i, join, api, cluster, v.Addr)
	return v, os.WriteFile(v.configPath(), []byte(hcl), 0o600)
}

// start makes the first node a cluster, which the others join.
func (vc *VaultCluster) start(ctx context.Context) error {
	first := vc.Nodes[0]
	for i, node := range vc.Nodes {
		if err := node.launch(ctx); err != nil {
			return err
		}
		if i == 0 {
			if err := first.initialise(ctx); err != nil {
				return err
			}
			continue
		}
		node.unsealKey, node.RootToken = first.unsealKey, first.RootToken
		node.client.SetToken(first.RootToken)
		// It takes the key once it has joined, which it does by itself.
		err := Until(ctx, "a Vault node to join", func() error {
			status, err := node.client.Sys().SealStatusWithContext(ctx)
			if err == nil && !status.Initialized {
				err = errors.New("it has not joined yet")
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := node.Unseal(ctx); err != nil {
			return err
		}
	}
	return vc.vote(ctx)
}

// vote waits until every node has a vote: before, there is no other leader to be had.
func (vc *VaultCluster) vote(ctx context.Context) error {
	client := vc.Nodes[0].client
	_, err := client.Logical().WriteWithContext(ctx, "sys/storage/raft/autopilot/configuration", map[string]any{
		"server_stabilization_time": "1s",
	})
	if err != nil {
		return err
	}
	return Until(ctx, "every Vault node to have a vote", func() error {
		raft, err := client.Logical().ReadWithContext(ctx, "sys/storage/raft/configuration")
		if err != nil {
			return err
		}
		conf, _ := raft.Data["config"].(map[string]any)
		servers, _ := conf["servers"].([]any)
		voters := 0
		for _, server := range servers {
			if s, _ := server.(map[string]any); s["voter"] == true {
				voters++
			}
		}
		if voters < len(vc.Nodes) {
			return fmt.Errorf("%d of %d have", voters, len(vc.Nodes))
		}
		return nil
	})
}

// Leader is the node that is active now.
func (vc *VaultCluster) Leader(ctx context.Context) (*Vault, error) {
	for _, node := range vc.Nodes {
		if node.proc.alive() != nil {
			continue
		}
		if leader, err := node.client.Sys().LeaderWithContext(ctx); err == nil && leader.IsSelf {
			return node, nil
		}
	}
	return nil, errors.New("no node is the leader")
}
