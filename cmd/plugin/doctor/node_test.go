package doctor

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
)

// realNode is a node of files, mounts and a server that answers as Vault does: all that is gathered is real but the server.
type realNode struct {
	t                             *testing.T
	dir, plugins, config, address string
	// Of the server: its health, and what it answers to the login that no server takes.
	sealed, blank bool
	ahead         time.Duration
	status        int
	said          string
}

// newRealNode is one with nothing wrong, but that no agent runs.
func newRealNode(t *testing.T) *realNode {
	t.Helper()
	n := &realNode{t: t, dir: t.TempDir(), status: http.StatusBadRequest, said: "error validating token: no known key"}
	n.plugins = n.path("plugins")
	must.NoError(t, os.Mkdir(n.plugins, 0o755))
	n.install("raw_exec")
	server := httptest.NewTLSServer(n)
	t.Cleanup(server.Close)
	n.address = server.URL
	n.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	certificate(t, n.path("client.pem"), time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0))
	n.write("token", "t")
	n.config = fmt.Sprintf(`
data_dir   = %[1]q
plugin_dir = %[2]q
client {
  enabled = true
}
plugin "raw_exec" {
  config {
    enabled = true
    secrets {
      address          = %[3]q
      ca_cert          = "%[1]s/ca.pem"
      client_cert      = "%[1]s/client.pem"
      client_key       = "%[1]s/client.pem.key"
      token_file       = "%[1]s/token"
      token_file_paths = ["secret/*"]
      state_dir        = "%[1]s/state"
    }
  }
}
`, n.dir, n.plugins, n.address)
	return n
}

// ServeHTTP answers what the doctor asks.
func (n *realNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/sys/health":
		_ = json.NewEncoder(w).Encode(map[string]any{
			"initialized": !n.blank, "sealed": n.sealed, "version": "1.21.0", "server_time_utc": time.Now().Add(n.ahead).Unix(),
		})
	case "/v1/auth/jwt-nomad/login":
		w.WriteHeader(n.status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{n.said}})
	default:
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{"permission denied"}})
	}
}

func (n *realNode) path(name string) string { return filepath.Join(n.dir, name) }

func (n *realNode) write(name, content string) {
	n.t.Helper()
	must.NoError(n.t, os.WriteFile(n.path(name), []byte(content), 0o600))
}

// install puts this program into plugin_dir.
func (n *realNode) install(name string) {
	n.t.Helper()
	program, err := os.Executable()
	must.NoError(n.t, err)
	must.NoError(n.t, os.Symlink(program, filepath.Join(n.plugins, name)))
}

func (n *realNode) chmod(name string, mode os.FileMode) {
	n.t.Helper()
	must.NoError(n.t, os.Chmod(n.path(name), mode))
}

// mount mounts a file system at a directory.
func (n *realNode) mount(kind, name string, flags uintptr) {
	n.t.Helper()
	must.NoError(n.t, os.MkdirAll(n.path(name), 0o755))
	must.NoError(n.t, unix.Mount(kind, n.path(name), kind, flags, ""))
	n.t.Cleanup(func() { must.NoError(n.t, unix.Unmount(n.path(name), 0)) })
}

func (n *realNode) replace(old, with string) {
	n.t.Helper()
	must.StrContains(n.t, n.config, old)
	n.config = strings.ReplaceAll(n.config, old, with)
}

// says is what the doctor prints of the node, which is at DIR.
func (n *realNode) says() string {
	n.t.Helper()
	n.write("nomad.hcl", n.config)
	var out strings.Builder
	must.NoError(n.t, Write(screen.Screen{Out: &out}, Check(Gather(n.t.Context(), Options{Paths: []string{n.path("nomad.hcl")}}))))
	return strings.ReplaceAll(out.String(), n.dir, "DIR")
}

// What is gathered of a node that is broken in one way becomes the finding that is of it, and one that is fit has no error.
func TestGatheredNodes(t *testing.T) {
	fit := newRealNode(t).says()
	must.StrContains(t, fit, "\n0 errors, ")
	for _, tc := range []struct {
		name  string
		spoil func(n *realNode)
		want  string
	}{
		{"noexec", func(n *realNode) {
			n.mount("tmpfs", "plugins", unix.MS_NOEXEC)
			n.install("raw_exec")
		}, "error   plugin_dir: DIR/plugins is on a file system that runs no programs (noexec)"},
		{"not installed", func(n *realNode) { must.NoError(n.t, os.Remove(n.path("plugins/raw_exec"))) }, "error   plugin_dir: this program is not in DIR/plugins"},
		{"no plugin_dir", func(n *realNode) { must.NoError(n.t, os.RemoveAll(n.plugins)) }, "error   plugin_dir: open DIR/plugins: no such file or directory"},
		{"no block", func(n *realNode) { n.replace(`plugin "raw_exec"`, `plugin "podman"`) }, `error   plugin raw_exec: there is no block plugin "raw_exec" in the configuration`},
		{"wrong name", func(n *realNode) { n.install("nomad-driver-secrets") }, "error   plugin nomad-driver-secrets: DIR/plugins/nomad-driver-secrets has a name that does not say what to wrap"},
		{"dangling link", func(n *realNode) { must.NoError(n.t, os.Symlink("/nowhere", n.path("plugins/docker"))) }, "error   plugin docker: DIR/plugins/docker: stat "},
		{"another program", func(n *realNode) {
			n.write("plugins/docker", "#!/bin/sh\n")
			n.chmod("plugins/docker", 0o755)
		}, "warning plugin docker: DIR/plugins/docker is another program"},
		{"everybody's plugin_dir", func(n *realNode) { n.chmod("plugins", 0o777) }, "error   plugin raw_exec: DIR/plugins can be written to by users other than root (mode 0777)"},
		{"no HCL", func(n *realNode) { n.replace("client {", "client = {{") }, "error   configuration: DIR/nomad.hcl: "},
		{"unknown key", func(n *realNode) { n.replace("ca_cert ", "ca_crt ") }, `error   plugin raw_exec: Invalid label: No argument or block type is named "ca_crt".`},
		{"off", func(n *realNode) { n.replace("enabled = true\n    secrets", "enabled = false\n    secrets") }, "warning plugin raw_exec: it has no enabled = true"},
		{"no CA certificate", func(n *realNode) { must.NoError(n.t, os.Remove(n.path("ca.pem"))) }, "error   plugin raw_exec: ca_cert: open DIR/ca.pem: no such file or directory"},
		{"certificate has ended", func(n *realNode) {
			certificate(n.t, n.path("client.pem"), time.Now().AddDate(-1, 0, 0), time.Now().Add(-time.Hour))
		}, "error   plugin raw_exec: client_cert: DIR/client.pem ended on "},
		{"certificate ends soon", func(n *realNode) {
			certificate(n.t, n.path("client.pem"), time.Now().AddDate(-1, 0, 0), time.Now().Add(36*time.Hour))
		}, "warning plugin raw_exec: client_cert: DIR/client.pem ends in 1 day\n"},
		{"another's key", func(n *realNode) {
			certificate(n.t, n.path("other"), time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
			must.NoError(n.t, os.Rename(n.path("other.key"), n.path("client.pem.key")))
		}, "error   plugin raw_exec: client_key: DIR/client.pem.key is not the key of DIR/client.pem"},
		{"everybody's key", func(n *realNode) { n.chmod("client.pem.key", 0o644) }, "warning plugin raw_exec: client_key: DIR/client.pem.key can be read by others than its owner"},
		{"no token file", func(n *realNode) { must.NoError(n.t, os.Remove(n.path("token"))) }, "error   plugin raw_exec: token_file: open DIR/token: no such file or directory"},
		{"everybody's token file", func(n *realNode) { n.chmod("token", 0o644) }, "warning plugin raw_exec: token_file: DIR/token can be read by others than its owner"},
		{"no CA of Nomad's", func(n *realNode) {
			n.replace("state_dir ", "nomad {\n address = \"https://127.0.0.1:4646\"\n ca_cert = \"/nowhere.pem\"\n}\nstate_dir ")
		}, "error   plugin raw_exec: nomad.ca_cert: open /nowhere.pem: no such file or directory"},
		{"server is away", func(n *realNode) { n.replace(n.address, "https://127.0.0.1:1") }, "error   server: https://127.0.0.1:1: "},
		{"server's authority is unknown", func(n *realNode) {
			certificate(n.t, n.path("ca.pem"), time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0))
		}, "to do: set ca_cert to the certificate of the authority that signed the server's"},
		{"server has another name", func(n *realNode) { n.replace("127.0.0.1", "localhost") }, "to do: use a name that is in the server's certificate, or set tls_server_name to one"},
		{"not verified", func(n *realNode) { n.replace("state_dir ", "tls_skip_verify = true\nstate_dir ") }, "warning server: tls_skip_verify: "},
		{"sealed", func(n *realNode) { n.sealed = true }, " is sealed\n        to do: vault operator unseal"},
		{"not initialized", func(n *realNode) { n.blank = true }, " is not initialized\n        to do: vault operator init"},
		{"clock", func(n *realNode) { n.ahead = -time.Hour }, "ahead of the secrets server's: logins may be refused"},
		{"wrong JWT mount", func(n *realNode) { n.replace("state_dir ", "jwt {\n path = \"elsewhere\"\n}\nstate_dir ") }, "error   jwt: nothing answers at auth/elsewhere: "},
		{"no role", func(n *realNode) { n.said = `role "nomad-workloads" could not be found` }, `warning jwt: role "nomad-workloads" at auth/jwt-nomad cannot be used`},
		{"no keys", func(n *realNode) { n.said = "error configuring token validator: unsupported config type" }, "error   jwt: the server cannot fetch Nomad's keys"},
		{"state_dir is not memory", func(n *realNode) { n.mount("proc", "state/journal", 0) }, "error   state_dir: DIR/state/journal is a mount that is not in memory (type 0x9fa0)"},
		{"everybody's state_dir", func(n *realNode) {
			must.NoError(n.t, os.Mkdir(n.path("state"), 0o700))
			n.chmod("state", 0o777)
		}, "error   state_dir: DIR/state: DIR/state can be written to by users other than root (mode 0777)"},
		{"no engine", func(n *realNode) {
			n.install("docker")
			n.config += "plugin \"docker\" {\n config {\n endpoint = \"unix:///nowhere.sock\"\n}\n}\n"
		}, `error   docker: the engine of plugin "docker" does not answer: `},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newRealNode(t)
			tc.spoil(n)
			got := n.says()
			must.StrContains(t, got, tc.want)
			must.StrNotContains(t, fit, tc.want)
			must.EqOp(t, strings.HasPrefix(tc.want, "warning"), strings.Contains(got, "\n0 errors, "), must.Sprint(got))
		})
	}
}
