package doctor

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/agentconf"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

var now = time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC)

// fit is a node with nothing wrong.
func fit() Node {
	docker := agentconf.Plugin{Name: "docker", File: "/etc/nomad.d/nomad.hcl", Config: map[string]any{"secrets": []map[string]any{{}}}}
	raw := agentconf.Plugin{Name: "raw_exec", File: "/etc/nomad.d/nomad.hcl", Config: map[string]any{"enabled": true, "secrets": []map[string]any{{}}}}
	server := vault.Config{Address: "https://vault.example.com:8200", CACert: "/etc/nomad.d/ca.pem"}
	settings := func(wraps string) driver.Settings {
		return driver.Settings{Wraps: wraps, InPlace: true, OfEngine: wraps == "docker", OptIn: wraps == "raw_exec", Vault: server, JWTMount: "jwt-nomad", JWTRole: "nomad-workloads", StateDir: "/run/nomad-driver-secrets"}
	}
	cert := OptionFile{Option: "ca_cert", Path: "/etc/nomad.d/ca.pem", NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0)}
	return Node{
		Now: now, Version: "0.3.0", Kernel: "6.1.0-13-amd64", Wrapped: "1.11.3",
		Config: agentconf.Config{
			Files: []string{"/etc/nomad.d/nomad.hcl"}, DataDir: "/opt/nomad", PluginDir: "/opt/nomad/plugins", Client: true,
			Plugins: []agentconf.Plugin{docker, raw},
		},
		Agent:   &agentconf.Agent{PID: 812, Version: "1.11.3", CanMount: true},
		Files:   []File{{Name: "docker", Ours: true, Executable: true}, {Name: "raw_exec", Ours: true, Executable: true}},
		Drivers: []Driver{{Name: "docker", Plugin: docker, Settings: settings("docker"), Files: []OptionFile{cert}, Engine: "28.5.2"}, {Name: "raw_exec", Plugin: raw, Settings: settings("raw_exec")}},
		Servers: []Server{{
			Config: server, Mount: "jwt-nomad", Role: "nomad-workloads",
			Health: vault.Health{Version: "1.21.0", Initialized: true}, Login: vault.LoginReady,
		}},
		States: []StateDir{{Path: "/run/nomad-driver-secrets", Mounted: true, CanMount: true}},
	}
}

// broken are nodes with one thing wrong each, and what the doctor says of it.
var broken = []struct {
	name  string
	spoil func(*Node)
	want  string
}{
	{"not root", func(n *Node) { n.UID = 1000 }, `
warning user: the doctor runs as user 1000: files and processes that only root sees cannot be looked at
        to do: run it as root`},
	{"old kernel", func(n *Node) { n.Kernel = "5.4.0-150-generic" }, `
error   kernel: Linux 5.4.0-150-generic has no openat2, without which no task's directory is opened
        to do: run Linux 5.6 or later; tasks with secrets do not start on this one`},
	{"no agent", func(n *Node) { n.Agent = nil }, `
warning agent: no Nomad agent runs with this configuration: its version, its rights and its environment are not known
        to do: run the doctor again when it runs`},
	{"agent is not root's", func(n *Node) { n.Agent.UID = 998 }, `
error   agent: Nomad's process 812 runs as user 998
        to do: run the client's agent as root: without it no task gets secrets`},
	{"old agent", func(n *Node) { n.Agent.Version = "1.9.7" }, `
warning agent: Nomad 1.9.7 is older than any that this plugin was tried with
        to do: use Nomad 1.10.0 or later`},
	{"new agent", func(n *Node) { n.Agent.Version = "2.0.5" }, `
warning agent: Nomad 2.0.5 is newer than the drivers in this plugin, which are of 1.11.3
        to do: what Nomad has changed in its drivers since is not in this plugin, but for the security fixes in its README; look for a newer plugin`},
	{"configuration with a syntax error", func(n *Node) {
		n.ConfigErr, n.Drivers, n.Servers, n.States, n.Files = errors.New("/etc/nomad.d/nomad.hcl: At 3:1: expected: EQ"), nil, nil, nil, nil
	}, `
error   configuration: /etc/nomad.d/nomad.hcl: At 3:1: expected: EQ
        to do: correct it; nothing else that depends on it was looked at`},
	{"block in two files", func(n *Node) {
		n.Config.Plugins[0].Replaced, n.Config.Plugins[0].File = []string{"/etc/nomad.d/docker.hcl"}, "/etc/nomad.d/secrets.hcl"
	}, `
warning configuration: plugin "docker" is in /etc/nomad.d/docker.hcl and in /etc/nomad.d/secrets.hcl: Nomad takes the last one's config alone
        to do: keep one block`},
	{"a server", func(n *Node) { n.Config.Client = false }, `
warning configuration: this agent is no client (client { enabled = true } is missing): it runs no tasks
        to do: run the doctor on client nodes`},
	{"no plugin_dir", func(n *Node) {
		n.PluginDirErr = &fs.PathError{Op: "open", Path: "/opt/nomad/plugins", Err: fs.ErrNotExist}
	}, `
error   plugin_dir: open /opt/nomad/plugins: file does not exist
        to do: make the directory, and install this program there as docker, raw_exec or both`},
	{"neither plugin_dir nor data_dir", func(n *Node) { n.Config.PluginDir = "" }, `
error   plugin_dir: the configuration has neither plugin_dir nor data_dir
        to do: set plugin_dir = "/opt/nomad/plugins"`},
	{"plugin_dir is noexec", func(n *Node) { n.NoExec = true }, `
error   plugin_dir: /opt/nomad/plugins is on a file system that runs no programs (noexec)
        to do: set plugin_dir to a directory on another; at the agent's next restart it uses its own driver, and ends every task with secrets`},
	{"not installed", func(n *Node) { n.Files, n.Drivers, n.Config.Plugins = nil, nil, nil }, `
error   plugin_dir: this program is not in /opt/nomad/plugins
        to do: install -m 0755 nomad-driver-secrets /opt/nomad/plugins/docker, and the same as raw_exec if you use that`},
	{"file without a block", func(n *Node) { n.Config.Plugins, n.Drivers = n.Config.Plugins[1:], n.Drivers[1:] }, `
error   plugin docker: there is no block plugin "docker" in the configuration, so Nomad skips the file: at the agent's next restart it uses its own driver, and ends every task with secrets
        to do: add plugin "docker" { config { secrets { address = "https://…:8200" } } }, or without the address where only Nomad Variables are wanted`},
	{"block without a file", func(n *Node) { n.Files = n.Files[1:] }, `
error   plugin docker: its block has secrets {}, and there is no file /opt/nomad/plugins/docker: Nomad's own driver refuses the block, and the agent does not start
        to do: install this program as /opt/nomad/plugins/docker, or take secrets {} away`},
	{"block beside the built-in without a file", func(n *Node) {
		n.Config.Plugins = append(n.Config.Plugins, agentconf.Plugin{Name: "docker-secrets"})
	}, `
error   plugin docker-secrets: there is a block for it, and no file /opt/nomad/plugins/docker-secrets
        to do: install this program under that name, or take the block away`},
	{"misnamed file", func(n *Node) {
		n.Files = append(n.Files, File{Name: "nomad-driver-secrets", Ours: true, Executable: true})
	}, `
error   plugin nomad-driver-secrets: /opt/nomad/plugins/nomad-driver-secrets has a name that does not say what to wrap: at the agent's next restart it uses its own driver, and ends every task with secrets
        to do: rename it to one of docker, docker-secrets, raw_exec, raw_exec-secrets, and give it a plugin block`},
	{"misnamed file and block", func(n *Node) {
		n.Files = append(n.Files, File{Name: "secrets", Ours: true, Executable: true})
		n.Config.Plugins = append(n.Config.Plugins, agentconf.Plugin{Name: "secrets"})
	}, `
error   plugin secrets: /opt/nomad/plugins/secrets has a name that does not say what to wrap: the agent does not start
        to do: rename file and block to one of docker, docker-secrets, raw_exec, raw_exec-secrets`},
	{"not executable", func(n *Node) { n.Files[0].Executable = false }, `
error   plugin docker: /opt/nomad/plugins/docker is not executable, so Nomad skips it: at the agent's next restart it uses its own driver, and ends every task with secrets
        to do: chmod 0755 /opt/nomad/plugins/docker`},
	{"another program", func(n *Node) { n.Files[0].Ours = false }, `
warning plugin docker: /opt/nomad/plugins/docker is another program: tasks of that driver get no secrets
        to do: install this program in its place, or under its own name`},
	{"dangling link", func(n *Node) { n.Files[0].Err = fs.ErrNotExist }, `
error   plugin docker: /opt/nomad/plugins/docker: file does not exist
        to do: install this program there again, or remove it: the agent does not start with it`},
	{"others may write the program", func(n *Node) { n.Files[0].Unsafe = "/opt/nomad/plugins/docker is owned by user 1000, mode 0755" }, `
error   plugin docker: /opt/nomad/plugins/docker is owned by user 1000, mode 0755: who may change it is root here
        to do: chown root and chmod go-w it`},
	{"another build", func(n *Node) { n.Files[1].Differs = true }, `
warning plugin raw_exec: /opt/nomad/plugins/raw_exec is another build of this program than the doctor, which is version 0.3.0, and has its block
        to do: /opt/nomad/plugins/raw_exec version says which it is: install one for both, unless the other is meant`},
	{"two at one metrics address", func(n *Node) {
		n.Drivers[0].Settings.Metrics, n.Drivers[1].Settings.Metrics = "127.0.0.1:9641", ":9641"
	}, `
warning plugin raw_exec: metrics: :9641 is the address of plugin "docker" too, and only one of them can listen there
        to do: give each plugin a port of its own, and have Prometheus read both`},
	{"no token file", func(n *Node) {
		n.Drivers[0].Files = append(n.Drivers[0].Files, OptionFile{Option: "token_file", Err: &fs.PathError{Op: "open", Path: "/etc/nomad.d/token", Err: fs.ErrNotExist}})
	}, `
error   plugin docker: token_file: open /etc/nomad.d/token: file does not exist
        to do: put the file there, readable for root; tasks with secrets wait for it`},
	{"old Vault", func(n *Node) { n.Servers[0].Health.Version = "1.16.3+ent" }, `
warning server: https://vault.example.com:8200, version 1.16.3+ent, is older than any that this plugin was tried with
        to do: use Vault 1.21.0 or later, or OpenBao`},
	{"old Docker", func(n *Node) { n.Drivers[0].Engine = "19.03.15" }, `
warning docker: engine 19.03.15 is older than any that this plugin was tried with
        to do: use Docker 20.10.0 or later`},
	{"unknown key", func(n *Node) {
		n.Drivers[0].ConfigErr = errors.New(`Unsupported argument; An argument named "adress" is not expected here.`)
		n.Drivers[0].Files = nil
	}, `
error   plugin docker: Unsupported argument; An argument named "adress" is not expected here.
        to do: correct it: the agent does not start with it`},
	{"raw_exec is off", func(n *Node) { delete(n.Drivers[1].Plugin.Config, "enabled") }, `
warning plugin raw_exec: it has no enabled = true: no job can use this driver
        to do: set enabled = true in its config`},
	{"beside a driver that removes containers", func(n *Node) { n.Drivers[0].Settings.InPlace = false }, `
error   plugin docker: it stands beside Nomad's own docker driver, which removes containers that it does not know after 5 minutes
        to do: plugin "docker" { config { gc { dangling_containers { enabled = false } } } }`},
	{"no address", func(n *Node) {
		n.Drivers[0].Settings.Vault.Address = ""
		n.Drivers[0].Plugin.Config["secrets"] = []map[string]any{{"jwt": []map[string]any{{"path": "jwt"}}}}
	}, `
warning plugin docker: it has no address of a Vault server: tasks with Nomad Variables alone start, those with secrets of Vault's do not, and the node has no attribute driver.docker.secrets; but jwt is set
        to do: set address in its secrets {}, or VAULT_ADDR in the agent's environment`},
	{"no CA certificate", func(n *Node) {
		n.Drivers[0].Files[0].Err = &fs.PathError{Op: "open", Path: "/etc/nomad.d/ca.pem", Err: fs.ErrNotExist}
	}, `
error   plugin docker: ca_cert: open /etc/nomad.d/ca.pem: file does not exist
        to do: put the file there, readable for root; tasks with secrets wait for it`},
	{"CA certificate has ended", func(n *Node) { n.Drivers[0].Files[0].NotAfter = now.AddDate(0, 0, -2) }, `
error   plugin docker: ca_cert: /etc/nomad.d/ca.pem ended on 2026-11-24
        to do: replace it; the agent need not be restarted`},
	{"CA certificate ends soon", func(n *Node) { n.Drivers[0].Files[0].NotAfter = now.AddDate(0, 0, 3) }, `
warning plugin docker: ca_cert: /etc/nomad.d/ca.pem ends in 3 days
        to do: replace it; the agent need not be restarted`},
	{"CA certificate is of tomorrow", func(n *Node) { n.Drivers[0].Files[0].NotBefore = now.AddDate(0, 0, 1) }, `
error   plugin docker: ca_cert: /etc/nomad.d/ca.pem is good from 2026-11-27 08:00 UTC on only
        to do: check this node's clock`},
	{"everybody's key", func(n *Node) {
		n.Drivers[0].Files = []OptionFile{{Option: "client_key", Path: "/etc/nomad.d/key.pem", OthersMay: true}}
	}, `
warning plugin docker: client_key: /etc/nomad.d/key.pem can be read by others than its owner
        to do: chmod 0600 /etc/nomad.d/key.pem`},
	{"Docker is away", func(n *Node) { n.Drivers[0].EngineErr = errors.New("Cannot connect to the Docker daemon") }, `
error   docker: the engine of plugin "docker" does not answer: Cannot connect to the Docker daemon
        to do: start it, or correct ` + "`endpoint`" + ` in the plugin's config`},
	{"server is away", func(n *Node) { n.Servers[0].Err = errors.New("connection refused") }, `
error   server: https://vault.example.com:8200: connection refused
        to do: is the server up, and does address have the right scheme and port? Does a firewall let this node through?`},
	{"server's name is unknown", func(n *Node) {
		n.Servers[0].Err = &net.DNSError{Err: "no such host", Name: "vault.example.com"}
	}, `
error   server: https://vault.example.com:8200: lookup vault.example.com: no such host
        to do: correct address, or this node's name resolution`},
	{"server's authority is unknown", func(n *Node) { n.Servers[0].Err = fmt.Errorf("no answer: %w", x509.UnknownAuthorityError{}) }, `
error   server: https://vault.example.com:8200: no answer: x509: certificate signed by unknown authority
        to do: set ca_cert to the certificate of the authority that signed the server's`},
	{"sealed", func(n *Node) { n.Servers[0].Health.Sealed = true }, `
error   server: https://vault.example.com:8200 is sealed
        to do: vault operator unseal`},
	{"not initialized", func(n *Node) { n.Servers[0].Health.Initialized = false }, `
error   server: https://vault.example.com:8200 is not initialized
        to do: vault operator init`},
	{"not encrypted", func(n *Node) { n.Servers[0].Config.Address = "http://vault.example.com:8200" }, `
warning server: http://vault.example.com:8200 is not encrypted: secrets and tokens can be read on the way
        to do: use https`},
	{"not verified", func(n *Node) { n.Servers[0].Config.TLSSkipVerify = true }, `
warning server: tls_skip_verify: whoever answers in the server's place gets the tasks' tokens
        to do: set ca_cert instead`},
	{"clock is behind", func(n *Node) { n.Servers[0].Health.Ahead = 3 * time.Minute }, `
error   clock: this node's is 3m0s behind the secrets server's: logins may be refused
        to do: synchronize the clocks (chrony, systemd-timesyncd)`},
	{"clock is ahead", func(n *Node) { n.Servers[0].Health.Ahead = -20 * time.Second }, `
warning clock: this node's is 20s ahead of the secrets server's
        to do: synchronize the clocks (chrony, systemd-timesyncd)`},
	{"no JWT method", func(n *Node) { n.Servers[0].Login, n.Servers[0].Said = vault.LoginNoMethod, "permission denied" }, `
error   jwt: nothing answers at auth/jwt-nomad: permission denied
        to do: vault auth enable -path=jwt-nomad jwt, or correct jwt { path } (and namespace); a role with token_bound_cidrs must have this node in them`},
	{"JWT method is not configured", func(n *Node) { n.Servers[0].Login = vault.LoginNoConfig }, `
error   jwt: auth/jwt-nomad has no configuration
        to do: vault write auth/jwt-nomad/config jwks_url="https://NOMAD:4646/.well-known/jwks.json"`},
	{"no role", func(n *Node) {
		n.Servers[0].Login, n.Servers[0].Said = vault.LoginNoRole, `role "nomad-workloads" could not be found`
	}, `
warning jwt: role "nomad-workloads" at auth/jwt-nomad cannot be used: role "nomad-workloads" could not be found
        to do: nothing, if every job names its own ` + "`role`" + ` (docs/vault.md, step 3); else write this one, or correct jwt { role }`},
	{"no keys", func(n *Node) {
		n.Servers[0].Login, n.Servers[0].Said = vault.LoginNoKeys, "error validating token: fetching keys oidc: get keys failed"
	}, `
error   jwt: the server cannot fetch Nomad's keys: error validating token: fetching keys oidc: get keys failed
        to do: jwks_url in auth/jwt-nomad/config must lead the secrets server to a Nomad server's /.well-known/jwks.json (and jwks_ca_pem, with TLS)`},
	{"role with counted tokens", func(n *Node) { n.Servers[0].JWTRole = &vault.JWTRole{NumUses: 10, Bound: true} }, `
error   jwt: role "nomad-workloads" at auth/jwt-nomad has token_num_uses = 10: the plugin refuses its logins
        to do: set token_num_uses = 0`},
	{"everybody's role", func(n *Node) { n.Servers[0].JWTRole = &vault.JWTRole{} }, `
warning jwt: role "nomad-workloads" at auth/jwt-nomad has no bound_claims: every job of the cluster can use it
        to do: bind it to nomad_namespace and nomad_job_id, or give it only what all jobs may have`},
	{"state_dir is on disk", func(n *Node) {
		n.States[0].Mounted, n.States[0].OnDisk = true, map[string]string{"journal": "type 0xef53"}
	}, `
error   state_dir: /run/nomad-driver-secrets/journal is a mount that is not in memory (type 0xef53): secrets must not be on a disk
        to do: unmount it, and the plugin mounts a tmpfs of its own; or set state_dir to another directory`},
	{"state_dir is not in memory, and cannot be", func(n *Node) { n.States[0].Mounted, n.States[0].CanMount = false, false }, `
error   state_dir: /run/nomad-driver-secrets is not in memory yet, and the agent may not mount file systems (CAP_SYS_ADMIN)
        to do: let the agent mount, or mount a tmpfs at /run/nomad-driver-secrets/journal and at /run/nomad-driver-secrets/shared before it starts`},
	{"state_dir is everybody's", func(n *Node) {
		n.States[0].Unsafe = errors.New("/run/nomad-driver-secrets can be written to by users other than root (mode 0777)")
	}, `
error   state_dir: /run/nomad-driver-secrets: /run/nomad-driver-secrets can be written to by users other than root (mode 0777)
        to do: make it, and all above it, root's and writable for nobody else; or set state_dir to another directory`},
	{"no FUSE", func(n *Node) { n.FuseErr = &fs.PathError{Op: "stat", Path: "/dev/fuse", Err: fs.ErrNotExist} }, `
warning /dev/fuse: stat /dev/fuse: file does not exist: tasks with a live_dir do not start
        to do: modprobe fuse, if jobs here use live_dir`},
}

func TestBrokenNodes(t *testing.T) {
	must.GreaterEq(t, 20, len(broken))
	for _, tc := range broken {
		t.Run(tc.name, func(t *testing.T) {
			n := fit()
			tc.spoil(&n)
			found := Check(n)
			var wrong []Finding
			for _, f := range found {
				if f.Status != OK {
					wrong = append(wrong, f)
				}
			}
			must.Eq(t, strings.TrimPrefix(tc.want, "\n"), written(t, wrong))
			must.NotEq(t, OK, Worst(found))
			must.Eq(t, strings.HasPrefix(tc.want, "\nerror"), Worst(found) == Error)
		})
	}
}

// Addresses of which a second listener would be refused, and others.
func TestSameListener(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		same bool
	}{
		{"127.0.0.1:9641", "127.0.0.1:9641", true},
		{"127.0.0.1:9641", "0.0.0.0:9641", true},
		{"[::]:9641", "10.0.0.1:9641", true},
		{":9641", "127.0.0.1:9641", true},
		{"127.0.0.1:9641", "127.0.0.1:9642", false},
		{"127.0.0.1:9641", "10.0.0.1:9641", false},
		{"", "", false},
	} {
		must.EqOp(t, tc.same, sameListener(tc.a, tc.b), must.Sprint(tc))
		must.EqOp(t, tc.same, sameListener(tc.b, tc.a), must.Sprint(tc))
	}
}

// written is what people see of findings, without the sums.
func written(t *testing.T, all []Finding) string {
	t.Helper()
	var out strings.Builder
	must.NoError(t, Write(screen.Screen{Out: &out}, all))
	lines, _, found := strings.Cut(out.String(), "\n\n")
	must.True(t, found)
	return lines
}

// On a terminal each line fits, and what it goes on with is below its text.
func TestOnATerminal(t *testing.T) {
	for _, tc := range broken {
		n := fit()
		tc.spoil(&n)
		var out strings.Builder
		must.NoError(t, Write(screen.Screen{Out: &out, Terminal: true, Width: 80, Colours: true}, Check(n)))
		must.StrContains(t, out.String(), "\x1b[3")
		for line := range strings.Lines(text.StripEscape(out.String())) {
			must.LessEq(t, 80, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), must.Sprint(tc.name, out.String()))
			must.RegexMatch(t, regexp.MustCompile(`^(ok      |warning |error   |        |\n|\d)`), line)
		}
	}
}

func TestFitNode(t *testing.T) {
	found := Check(fit())
	must.Eq(t, `ok      kernel: Linux 6.1.0-13-amd64
ok      agent: Nomad 1.11.3, process 812; the drivers in this plugin are of Nomad 1.11.3
ok      configuration: /etc/nomad.d/nomad.hcl
ok      plugin docker: /opt/nomad/plugins/docker is this program, and has its block
ok      plugin raw_exec: /opt/nomad/plugins/raw_exec is this program, and has its block
ok      plugin docker: ca_cert: /etc/nomad.d/ca.pem is good until 2027-11-26
ok      docker: engine 28.5.2
ok      server: https://vault.example.com:8200, version 1.21.0
ok      clock: the secrets server's and this node's agree
ok      jwt: role "nomad-workloads" at auth/jwt-nomad is there, and the server can fetch Nomad's keys
ok      state_dir: /run/nomad-driver-secrets is in memory
ok      /dev/fuse: live directories can be served`, written(t, found))
	must.Eq(t, OK, Worst(found))
}

// Beside the built-in driver ours is safe once that removes no containers.
func TestBesideIsFit(t *testing.T) {
	n := fit()
	n.Drivers[0].Settings.InPlace = false
	n.Config.Plugins[0].Config["gc"] = []map[string]any{{"dangling_containers": []map[string]any{{"enabled": false}}}}
	must.Eq(t, OK, Worst(Check(n)))
}

// A node for Nomad Variables alone needs no Vault server: that is nothing to be warned of.
func TestNodeForNomadVariables(t *testing.T) {
	n := fit()
	n.Servers = nil
	for i := range n.Drivers {
		n.Drivers[i].Settings.Vault.Address = ""
		n.Drivers[i].Plugin.Config["secrets"] = []map[string]any{{"nomad": []map[string]any{{"file": "private/nomad.jwt"}}, "poll_interval": "5s"}}
	}
	found := Check(n)
	must.Eq(t, OK, Worst(found))
	must.StrContains(t, written(t, found), "ok      plugin docker: it has no address of a Vault server: tasks with Nomad Variables alone start")
}
