package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

// Vault is a real server with file storage: its data, and so its leases, outlive Stop, Kill and
// Seal. It writes an audit log (audit.go), from which tests count requests.
type Vault struct {
	Addr      string
	RootToken string
	AuditPath string
	LogPath   string

	dir       string
	bin       string
	unsealKey string
	proc      *process
	client    *api.Client
	setup     sync.Mutex // one test mounts at a time
}

const vaultConfig = `
storage "file" {
  path = %q
}
listener "tcp" {
  address     = "127.0.0.1:%d"
  tls_disable = true
  # for the revocation of a whole fleet's leases in one request
  max_request_duration = "20m"
}
api_addr      = %q
disable_mlock = true
ui            = false
log_level     = "info"
`

// startVault makes a new server in dir: initialised, unsealed, audited.
func startVault(ctx context.Context, dir string) (*Vault, error) {
	bin, err := server("vault")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	v := &Vault{
		Addr:      fmt.Sprintf("http://127.0.0.1:%d", port),
		AuditPath: filepath.Join(dir, "audit.log"),
		LogPath:   filepath.Join(dir, "vault.log"),
		dir:       dir,
		bin:       bin,
	}
	hcl := fmt.Sprintf(vaultConfig, filepath.Join(dir, "data"), port, v.Addr)
	if err := os.WriteFile(v.configPath(), []byte(hcl), 0o600); err != nil {
		return nil, err
	}
	if err := v.launch(ctx); err != nil {
		return v, err
	}
	if err := v.initialise(ctx); err != nil {
		return v, err
	}
	return v, v.enableAudit(ctx)
}

func (v *Vault) configPath() string { return filepath.Join(v.dir, "vault.hcl") }

// launch starts the process and waits until it answers, sealed or not.
func (v *Vault) launch(ctx context.Context) (err error) {
	// GODEBUG and VAULT_* of the caller must not change the server under test.
	env := []string{"VAULT_ADDR=", "VAULT_TOKEN=", "VAULT_NAMESPACE="}
	v.proc, err = startProcess("vault", v.LogPath, env, v.bin, "server", "-config="+v.configPath())
	if err != nil {
		return err
	}
	client, err := v.ClientWithToken(v.RootToken)
	if err != nil {
		return err
	}
	v.client = client
	return Until(ctx, "Vault to answer", func() error {
		if err := v.proc.alive(); err != nil {
			return err
		}
		_, err := client.Sys().SealStatusWithContext(ctx)
		return err
	})
}

func (v *Vault) initialise(ctx context.Context) error {
	init, err := v.client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("initialise Vault: %w", err)
	}
	v.unsealKey, v.RootToken = init.KeysB64[0], init.RootToken
	v.client.SetToken(v.RootToken)
	return v.Unseal(ctx)
}

// Client is a client with the root token. It does not retry, so that an outage is seen as one.
func (v *Vault) Client() *api.Client { return v.client }

// ShellEnv is what makes the vault command a client with the root token, in a shell.
func (v *Vault) ShellEnv() []string {
	return []string{
		"PATH=" + filepath.Dir(v.bin) + ":" + os.Getenv("PATH"),
		"VAULT_ADDR=" + v.Addr, "VAULT_TOKEN=" + v.RootToken, "VAULT_NAMESPACE=",
	}
}

// ClientWithToken is a client for what a task may do.
func (v *Vault) ClientWithToken(token string) (*api.Client, error) {
	conf := api.DefaultConfig()
	if conf.Error != nil {
		return nil, conf.Error
	}
	conf.Address = v.Addr
	conf.MaxRetries = 0
	client, err := api.NewClient(conf)
	if err != nil {
		return nil, err
	}
	client.ClearNamespace()
	client.SetToken(token)
	return client, nil
}

// Start starts the server again on the same data and unseals it.
func (v *Vault) Start(ctx context.Context) error {
	if err := v.launch(ctx); err != nil {
		return err
	}
	return v.Unseal(ctx)
}

// StartSealed starts the server again and leaves it sealed.
func (v *Vault) StartSealed(ctx context.Context) error { return v.launch(ctx) }

// Stop ends the server as an operator would; its port refuses connections.
func (v *Vault) Stop() { v.proc.stop(syscall.SIGTERM, 20*time.Second) }

// Kill ends the server with SIGKILL.
func (v *Vault) Kill() { v.proc.kill() }

// Pause stops the server without ending it: connections are accepted and never answered.
func (v *Vault) Pause() error { return syscall.Kill(v.proc.pid(), syscall.SIGSTOP) }

// Resume undoes Pause.
func (v *Vault) Resume() error { return syscall.Kill(v.proc.pid(), syscall.SIGCONT) }

// Seal makes every request fail with 503 until Unseal.
func (v *Vault) Seal(ctx context.Context) error { return v.client.Sys().SealWithContext(ctx) }

// Unseal undoes Seal, and returns once requests are served again.
func (v *Vault) Unseal(ctx context.Context) error {
	if _, err := v.client.Sys().UnsealWithContext(ctx, v.unsealKey); err != nil {
		return fmt.Errorf("unseal Vault: %w", err)
	}
	return Until(ctx, "Vault to be active", func() error {
		_, err := v.client.Sys().ListMountsWithContext(ctx)
		return err
	})
}
