package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"
)

// Agent is a Nomad client agent, with a server agent of its own. Both have data directories that last
// (not -dev), so that Stop, Kill and Start again are what they are in production. Unless a method says
// otherwise, "the agent" is the client: it is the one that runs the plugin and the tasks.
type Agent struct {
	Addr     string // of the server's API, which is there also when the client is not
	AuthPath string // of the Vault JWT auth method that trusts this agent
	LogPath  string
	// RootToken may do everything in Nomad; empty: ACLs are off.
	RootToken string
	// StateDir is the plugin's state_dir, which the plugin makes. It is on whatever file system the tests are on.
	StateDir string

	opts    AgentOptions
	dir     string
	binDir  string
	bin     string
	program string            // the plugin that was built
	plugins map[string]string // driver name → its file
	pause   string            // the pause image

	serverPorts, clientPorts agentPorts
	server, proc             *process
	api                      *api.Client // of the server
	clientAPI                *api.Client
}

type agentPorts struct{ http, rpc, serf int }

func newAgentPorts() (p agentPorts, err error) {
	for _, port := range []*int{&p.http, &p.rpc, &p.serf} {
		if *port, err = freePort(); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (p agentPorts) client() (string, *api.Client, error) {
	addr := fmt.Sprintf("http://127.0.0.1:%d", p.http)
	client, err := api.NewClient(&api.Config{Address: addr})
	return addr, client, err
}

func newAgent(c *Cluster, opts AgentOptions) (a *Agent, err error) {
	name := "nomad-" + opts.Name
	a = &Agent{
		AuthPath: opts.AuthPath,
		opts:     opts,
		dir:      c.dir.join(name),
		binDir:   c.binDir,
		program:  c.plugin,
		plugins:  make(map[string]string),
		pause:    c.Images.Pause,
	}
	a.opts.Meta = map[string]string{"image": c.Images.App}
	if c.MariaDB != nil { // a bare cluster has none
		a.opts.Meta["db_addr"] = c.MariaDB.Addr
	}
	maps.Copy(a.opts.Meta, opts.Meta)
	a.LogPath = filepath.Join(a.dir, "nomad.log")
	if a.bin, err = server("nomad"); err != nil {
		return nil, err
	}
	a.StateDir = filepath.Join(a.dir, "run")
	if opts.StateInMemory {
		_, err = c.dir.tmpfs(name, "run")
	} else {
		_, err = c.dir.mkdir(name)
	}
	if err != nil {
		return nil, err
	}
	// Nomad would make it 0700, and then raw_exec starts no task of another user.
	if err := os.Mkdir(a.DataDir(), 0o711); err != nil {
		return nil, err
	}
	if a.serverPorts, err = newAgentPorts(); err != nil {
		return nil, err
	}
	if a.clientPorts, err = newAgentPorts(); err != nil {
		return nil, err
	}
	if a.Addr, a.api, err = a.serverPorts.client(); err != nil {
		return nil, err
	}
	if _, a.clientAPI, err = a.clientPorts.client(); err != nil {
		return nil, err
	}
	return a, errors.Join(
		os.WriteFile(a.configPath("server"), []byte(a.serverConfig()), 0o600),
		a.Place(opts.Placement))
}

func (a *Agent) configPath(role string) string { return filepath.Join(a.dir, role+".hcl") }
func (a *Agent) pluginDir() string             { return filepath.Join(a.dir, "plugins") }

// Place puts the plugin into plugin_dir under each name that the placement asks for, takes it away
// under every other, and writes the client's configuration. It is used from the next Start.
func (a *Agent) Place(p Placement) error {
	if err := os.MkdirAll(a.pluginDir(), 0o755); err != nil {
		return err
	}
	a.opts.Placement = p
	for driver := range a.plugins {
		if err := a.RemovePlugin(driver); err != nil {
			return err
		}
	}
	for _, driver := range p.files() {
		if err := a.InstallPlugin(a.program, driver); err != nil {
			return err
		}
	}
	return os.WriteFile(a.configPath("client"), []byte(a.clientConfig()), 0o600)
}

// InstallPlugin replaces (or adds) a plugin file, as an upgrade does; it is used from the next Start.
func (a *Agent) InstallPlugin(plugin, driver string) error {
	a.plugins[driver] = filepath.Join(a.pluginDir(), driver)
	return copyFile(plugin, a.plugins[driver])
}

// RemovePlugin takes a plugin file away: from the next Start, the built-in driver is back.
func (a *Agent) RemovePlugin(driver string) error {
	path := a.plugins[driver]
	delete(a.plugins, driver)
	return os.Remove(path)
}

// Start starts the agent, again on the same data if it was stopped or killed, and returns when jobs
// can be placed: the node is ready, and every driver is detected.
func (a *Agent) Start(ctx context.Context) (err error) {
	if a.server == nil {
		if err := a.StartServer(ctx); err != nil {
			return err
		}
	}
	if a.proc, err = a.launch("client", a.LogPath); err != nil {
		return err
	}
	return Until(ctx, "Nomad to be ready", func() error {
		if err := a.proc.alive(); err != nil {
			return err
		}
		return a.ready(ctx)
	})
}

// StartServer starts the server, again on the same data if it was stopped, and waits for its keys: a
// client that registers before is refused, and waits for up to 30 s.
func (a *Agent) StartServer(ctx context.Context) (err error) {
	if a.server, err = a.launch("server", filepath.Join(a.dir, "server.log")); err != nil {
		return err
	}
	return Until(ctx, "the Nomad server's keys", func() error {
		if err := a.server.alive(); err != nil {
			return err
		}
		var jwks struct{ Keys []any }
		if _, err := a.api.Raw().Query("/.well-known/jwks.json", &jwks, (&api.QueryOptions{}).WithContext(ctx)); err != nil {
			return err
		}
		if len(jwks.Keys) == 0 {
			return errors.New("none yet")
		}
		if a.opts.ACL && a.RootToken == "" {
			return a.bootstrap(ctx)
		}
		return nil
	})
}

// bootstrap makes the token that may do everything, once.
func (a *Agent) bootstrap(ctx context.Context) error {
	root, _, err := a.api.ACLTokens().Bootstrap((&api.WriteOptions{}).WithContext(ctx))
	if err != nil {
		return err
	}
	a.RootToken = root.SecretID
	a.api.SetSecretID(root.SecretID)
	a.clientAPI.SetSecretID(root.SecretID)
	return nil
}

// StopServer leaves the client without a server. Jobs cannot be asked about until StartServer.
func (a *Agent) StopServer() { a.server.stop(syscall.SIGTERM, 30*time.Second) }

func (a *Agent) launch(role, log string) (*process, error) {
	env := []string{
		"PATH=" + a.binDir + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin", // raw_exec finds testapp
		"VAULT_ADDR=", "VAULT_TOKEN=", "VAULT_NAMESPACE=", "NOMAD_ADDR=", "NOMAD_TOKEN=",
	}
	command := []string{a.bin, "agent", "-config=" + a.configPath(role)}
	if role == "client" {
		command = append(slices.Clone(a.opts.ClientCommand), command...)
	}
	return startProcess("nomad "+role, log, env, command[0], command[1:]...)
}

func (a *Agent) ready(ctx context.Context) error {
	node, err := a.Node(ctx)
	if err != nil {
		return err
	}
	if node.Status != api.NodeStatusReady {
		return fmt.Errorf("node is %s", node.Status)
	}
	for _, driver := range []string{"docker", "raw_exec"} {
		if d := node.Drivers[driver]; d == nil || !d.Detected || !d.Healthy {
			return fmt.Errorf("driver %s is not healthy: %+v", driver, d)
		}
	}
	for driver := range a.plugins {
		if d := node.Drivers[driver]; d == nil || !d.Detected || !d.Healthy {
			return fmt.Errorf("plugin %s is not healthy: %+v", driver, d)
		}
		// Without this a plugin that did not load would leave us testing the built-in.
		attr := "driver." + driver + ".secrets"
		if address, given := a.opts.Secrets["address"]; given && address == nil || a.opts.Vault == nil { // then that one is left out
			attr += ".nomad"
		}
		if node.Attributes[attr] == "" {
			return fmt.Errorf("no node attribute %s: the agent did not load the plugin", attr)
		}
	}
	if a.opts.Vault != nil && a.opts.Vault.proc.alive() == nil && node.Attributes["vault.version"] == "" {
		return errors.New("the client has not found Vault yet")
	}
	return nil
}

// Node is what the server knows of the agent's node, once its client has registered since its start:
// what the server remembers from before does not count.
func (a *Agent) Node(ctx context.Context) (*api.Node, error) {
	self, err := a.clientAPI.Agent().Self()
	if err != nil {
		return nil, err
	}
	stats := self.Stats["client"]
	if ttl, err := time.ParseDuration(stats["heartbeat_ttl"]); err != nil || ttl == 0 {
		return nil, errors.New("the client has not registered yet")
	}
	node, _, err := a.api.Nodes().Info(stats["node_id"], (&api.QueryOptions{}).WithContext(ctx))
	return node, err
}

// Stop ends the agent by SIGINT, as an operator would: tasks run on, the plugin is stopped.
func (a *Agent) Stop() { a.proc.stop(syscall.SIGINT, 30*time.Second) }

// Kill ends the agent by SIGKILL: tasks and the plugin run on.
func (a *Agent) Kill() { a.proc.kill() }

// Restart is Stop and Start.
func (a *Agent) Restart(ctx context.Context) error {
	a.Stop()
	return a.Start(ctx)
}

// Vault is the server that the agent and its tasks use.
func (a *Agent) Vault() *Vault { return a.opts.Vault }

// Client is a client of the server's API.
func (a *Agent) Client() *api.Client { return a.api }

// Driver is the name under which jobs find the driver called "docker" or "raw_exec" with secrets.
func (a *Agent) Driver(name string) string {
	if a.opts.Placement == Beside {
		return name + besideSuffix
	}
	return name
}

// DataDir is Nomad's data_dir, where state.db and the allocations are.
func (a *Agent) DataDir() string { return filepath.Join(a.dir, "data") }

// JournalDir is where the plugin keeps what it has written about tasks, a directory for each driver.
func (a *Agent) JournalDir() string { return filepath.Join(a.StateDir, "journal") }

// PluginFile is the file of the plugin that serves "docker" or "raw_exec".
func (a *Agent) PluginFile(name string) string { return a.plugins[a.Driver(name)] }

// PID is the agent's process.
func (a *Agent) PID() int { return a.proc.pid() }

// PluginPID is the process of the plugin that serves "docker" or "raw_exec". The same program also
// runs as executor and logger, which have arguments.
func (a *Agent) PluginPID(name string) (int, error) {
	path := a.plugins[a.Driver(name)]
	if path == "" {
		return 0, fmt.Errorf("no plugin serves %s: it is Nomad's own", name)
	}
	for _, pid := range processesOf(a.dir) {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if string(bytes.TrimRight(args, "\x00")) == path {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("plugin %s is not running", path)
}

// KillPlugin kills that process with SIGKILL. Nomad starts another.
func (a *Agent) KillPlugin(name string) error {
	pid, err := a.PluginPID(name)
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

// Close stops every job, then the agent, and clears what is left of both.
func (a *Agent) Close() error {
	var err error
	if a.proc.alive() == nil && a.server.alive() == nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err = a.stopJobs(ctx)
	}
	a.Stop()
	a.server.kill()
	return errors.Join(err, wipe(a.dir))
}

func (a *Agent) stopJobs(ctx context.Context) error {
	list, _, err := a.api.Jobs().List((&api.QueryOptions{Namespace: "*"}).WithContext(ctx))
	if err != nil {
		return err
	}
	var errs []error
	for _, stub := range list {
		job := &Job{ID: stub.ID, Namespace: stub.Namespace, agent: a}
		errs = append(errs, job.deregister(ctx))
	}
	for _, stub := range list {
		job := &Job{ID: stub.ID, Namespace: stub.Namespace, agent: a}
		errs = append(errs, job.stopped(ctx))
	}
	return errors.Join(errs...)
}

// copyFile writes a program in one step, so that a running one is replaced and never changed.
func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	tmp := to + ".new"
	if err := os.WriteFile(tmp, content, 0o755); err != nil {
		return err
	}
	return os.Rename(tmp, to)
}

// LogTail is the end of the agent's log, its plugins' lines included, without those about requests to
// its API: most are our own polls.
func (a *Agent) LogTail(lines int) string {
	content, err := os.ReadFile(a.LogPath)
	if err != nil {
		return err.Error()
	}
	var kept []string
	for line := range strings.Lines(string(content)) {
		if !strings.Contains(line, "[DEBUG] http: request") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept[max(0, len(kept)-lines):], "")
}
