package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/nomad/api"
)

// NomadACL is a Nomad server without clients that has ACLs: somewhere that Vault's nomad engine can make
// tokens.
type NomadACL struct {
	Addr      string // URL
	RootToken string

	proc *process
	api  *api.Client // with the root token
}

const nomadACLConfig = `# Written by the harness.
data_dir             = %q
bind_addr            = "127.0.0.1"
disable_update_check = true
advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}
ports {
  http = %d
  rpc  = %d
  serf = %d
}
acl {
  enabled = true
}
` + serverConfig

// NewNomadACL starts one. Close ends it.
func (c *Cluster) NewNomadACL(ctx context.Context, name string) (*NomadACL, error) {
	bin, err := server("nomad")
	if err != nil {
		return nil, err
	}
	ports, err := newAgentPorts()
	if err != nil {
		return nil, err
	}
	dir := c.dir.join(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "server.hcl")
	hcl := fmt.Sprintf(nomadACLConfig, filepath.Join(dir, "data"), ports.http, ports.rpc, ports.serf)
	if err := os.WriteFile(config, []byte(hcl), 0o600); err != nil {
		return nil, err
	}
	n := &NomadACL{}
	if n.Addr, n.api, err = ports.client(); err != nil {
		return nil, err
	}
	env := []string{"VAULT_ADDR=", "VAULT_TOKEN=", "NOMAD_ADDR=", "NOMAD_TOKEN="}
	if n.proc, err = startProcess("nomad with ACLs", filepath.Join(dir, "nomad.log"), env, bin, "agent", "-config="+config); err != nil {
		return nil, err
	}
	err = Until(ctx, "a Nomad server with ACLs", func() error {
		if err := n.proc.alive(); err != nil {
			return err
		}
		root, _, err := n.api.ACLTokens().Bootstrap((&api.WriteOptions{}).WithContext(ctx))
		if err != nil {
			return err
		}
		n.RootToken = root.SecretID
		n.api.SetSecretID(root.SecretID)
		return nil
	})
	if err != nil {
		n.Close()
	}
	return n, err
}

// Close ends the server.
func (n *NomadACL) Close() { n.proc.kill() }

// Tokens is how many tokens there are, the root token aside.
func (n *NomadACL) Tokens(ctx context.Context) (int, error) {
	all, _, err := n.api.ACLTokens().List((&api.QueryOptions{}).WithContext(ctx))
	return len(all) - 1, err
}

// Knows says whether a token is one of the server's.
func (n *NomadACL) Knows(ctx context.Context, token string) bool {
	_, _, err := n.api.ACLTokens().Self((&api.QueryOptions{AuthToken: token}).WithContext(ctx))
	return err == nil
}
