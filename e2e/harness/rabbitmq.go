package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
	amqp "github.com/rabbitmq/amqp091-go"
)

// RabbitMQ is a broker of its own, with the management API that Vault makes users by.
type RabbitMQ struct {
	Addr       string // AMQP, host:port
	Management string // URL
	AdminUser  string
	AdminPass  string
	LogPath    string

	port, admin int
	env         []string
	epmd, proc  *process
}

// rabbitServer is the broker's own script: the one in PATH would change to another user.
const rabbitServer = "/usr/lib/rabbitmq/bin/rabbitmq-server"

func startRabbitMQ(ctx context.Context, dir string) (*RabbitMQ, error) {
	if !isExecutable(rabbitServer) {
		return nil, errors.New("no " + rabbitServer + ": install the Debian package rabbitmq-server (`make deps`)")
	}
	var ports [4]int
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	r := &RabbitMQ{
		Addr:       "127.0.0.1:" + strconv.Itoa(ports[0]),
		Management: "http://127.0.0.1:" + strconv.Itoa(ports[1]),
		AdminUser:  "vault_admin", AdminPass: "admin-password-of-the-tests",
		LogPath: filepath.Join(dir, "rabbitmq.log"),
		port:    ports[0], admin: ports[1],
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = %d\n"+
		"default_user = %s\ndefault_pass = %s\nlog.console = true\nlog.file = false\n", r.port, r.admin, r.AdminUser, r.AdminPass)
	for name, content := range map[string]string{"rabbitmq.conf": conf, "enabled_plugins": "[rabbitmq_management].\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	r.env = []string{
		"HOME=" + dir,                // where Erlang's cookie is
		"RUNNING_UNDER_SYSTEMD=true", // the script becomes the broker, instead of waiting for it
		"RABBITMQ_NODENAME=e2e-" + strconv.Itoa(r.port) + "@localhost",
		"ERL_EPMD_PORT=" + strconv.Itoa(ports[2]), "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(ports[3]),
		"RABBITMQ_CONFIG_FILE=" + filepath.Join(dir, "rabbitmq.conf"),
		"RABBITMQ_CONF_ENV_FILE=/dev/null",
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(dir, "enabled_plugins"),
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(dir, "mnesia"),
		"RABBITMQ_LOG_BASE=" + dir, "RABBITMQ_LOGS=-",
		"RABBITMQ_PID_FILE=" + filepath.Join(dir, "pid"),
		"RABBITMQ_GENERATED_CONFIG_DIR=" + filepath.Join(dir, "config"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 1:1 +sbwt none",
	}
	epmd, err := tool("epmd", "erlang-base")
	if err != nil {
		return nil, err
	}
	// Else the broker would start one, which outlives it.
	if r.epmd, err = startProcess("epmd", r.LogPath, r.env, epmd, "-port", strconv.Itoa(ports[2]), "-address", "127.0.0.1"); err != nil {
		return nil, err
	}
	return r, r.Start(ctx)
}

// Start starts the broker, again on the same data if it was stopped.
func (r *RabbitMQ) Start(ctx context.Context) (err error) {
	if r.proc, err = startProcess("rabbitmq-server", r.LogPath, r.env, rabbitServer); err != nil {
		return err
	}
	return Until(ctx, "RabbitMQ to answer", func() error {
		if err := r.proc.alive(); err != nil {
			return err
		}
		_, err := r.Users(ctx)
		return err
	})
}

// Stop ends the broker; its data stay.
func (r *RabbitMQ) Stop() { r.proc.stop(syscall.SIGTERM, 20*time.Second) }

func (r *RabbitMQ) kill() {
	r.proc.kill()
	r.epmd.kill()
}

// Users are the users but the administrator.
func (r *RabbitMQ) Users(ctx context.Context) ([]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.Management+"/api/users", bytes.NewReader(nil))
	if err != nil {
		return nil, err
	}
	req.SetBasicAuth(r.AdminUser, r.AdminPass)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("RabbitMQ's management API: %s", resp.Status)
	}
	var all []struct{ Name string }
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		return nil, err
	}
	var users []string
	for _, u := range all {
		if u.Name != r.AdminUser {
			users = append(users, u.Name)
		}
	}
	return users, nil
}

// CanLogin says whether the broker lets user in, over AMQP.
func (r *RabbitMQ) CanLogin(user, password string) bool {
	conn, err := amqp.DialConfig("amqp://"+r.Addr+"/", amqp.Config{
		SASL: []amqp.Authentication{&amqp.PlainAuth{Username: user, Password: password}}, Vhost: "/",
	})
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// EnableRabbitMQ mounts a RabbitMQ engine that may make users in r.
func (v *Vault) EnableRabbitMQ(ctx context.Context, mount string, r *RabbitMQ, ttl, maxTTL time.Duration) error {
	if err := v.mount(ctx, mount, &api.MountInput{Type: "rabbitmq"}); err != nil {
		return err
	}
	if err := v.write(ctx, mount+"/config/lease", map[string]any{"ttl": int(ttl.Seconds()), "max_ttl": int(maxTTL.Seconds())}); err != nil {
		return err
	}
	return v.write(ctx, mount+"/config/connection", map[string]any{
		"connection_uri": r.Management, "username": r.AdminUser, "password": r.AdminPass,
	})
}

// RabbitMQRole makes mount/creds/name give users that may use the default vhost.
func (v *Vault) RabbitMQRole(ctx context.Context, mount, name string) error {
	return v.write(ctx, mount+"/roles/"+name, map[string]any{
		"vhosts": `{"/": {"configure": ".*", "write": ".*", "read": ".*"}}`,
	})
}
