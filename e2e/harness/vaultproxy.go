package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

const vaultProxyConfig = `
vault {
  address = %q
}
cache {}
listener "tcp" {
  address     = "127.0.0.1:%d"
  tls_disable = true
}
`

// VaultProxy is a real Vault Proxy with a cache, before a Vault.
type VaultProxy struct {
	Addr string
	proc *process
}

// StartVaultProxy starts one in dir.
func StartVaultProxy(ctx context.Context, v *Vault, dir string) (*VaultProxy, error) {
	bin, err := server("vault")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "proxy.hcl")
	if err := os.WriteFile(config, fmt.Appendf(nil, vaultProxyConfig, v.Addr, port), 0o600); err != nil {
		return nil, err
	}
	p := &VaultProxy{Addr: fmt.Sprintf("http://127.0.0.1:%d", port)}
	if p.proc, err = startProcess("vault proxy", filepath.Join(dir, "proxy.log"), []string{"HOME=" + dir}, bin, "proxy", "-config="+config); err != nil {
		return nil, err
	}
	client, err := api.NewClient(&api.Config{Address: p.Addr})
	if err == nil {
		err = Until(ctx, "the Vault Proxy to answer", func() error {
			if err := p.proc.alive(); err != nil {
				return never(err)
			}
			_, err := client.Sys().HealthWithContext(ctx)
			return err
		})
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Close ends the proxy.
func (p *VaultProxy) Close() { p.proc.stop(syscall.SIGTERM, 5*time.Second) }
