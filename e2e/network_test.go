package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// A task with secrets is reached over each kind of network as one without: a group network in bridge
// mode, Docker's own bridge with a port map, and the host's. So is the process that comes after a
// rotation, at the same address (C8).
func TestNetworks(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.putColour("networks", "green")
	l.mayRead("networks", "secret/data/networks")
	tests := []struct{ name, network, config, port string }{
		{"bridge", "mode = \"bridge\"\nport \"http\" {\n to = 8080\n}", "", "8080"},
		{"port-map", "port \"http\" {\n to = 8080\n}", `ports = ["http"]`, "8080"},
		{"host", "port \"http\" {}", `network_mode = "host"`, "$NOMAD_PORT_http"},
	}
	allocs := make([]*harness.Alloc, len(tests))
	jobs := make([]*harness.Job, len(tests))
	for i, test := range tests {
		jobs[i] = l.submit(fmt.Sprintf(`
job "network-%s" {
  group "g" {
    network {
      %s
    }
    task "web" {
      driver = "docker"
      %s
      config {
        image   = "${meta.image}"
        command = "sh"
        args    = ["-c", "echo start $COLOUR; exec httpd -f -p %s -h /secrets/app"]
        %s
        role = "networks"
        secret "app" {
          path  = "secret/networks"
          env   = { COLOUR = "colour" }
          files = true
          splay = "0s"
        }
      }
    }
  }
}`, test.name, test.network, identityBlock, test.port, test.config))
	}
	addresses := make([]string, len(tests))
	for i, job := range jobs {
		var err error
		allocs[i], err = job.Running(l.ctx)
		require.NoError(t, err)
		addresses[i] = l.portOf(allocs[i], "http")
		l.serves(addresses[i], "green")
	}
	l.putColour("networks", "blue")
	for i, alloc := range allocs {
		l.lines(alloc, "web", "start blue", 1)
		l.serves(addresses[i], "blue")
		l.notRestarted(alloc, "web")
	}
}

// portOf is the address at which Nomad says that a port of an allocation is.
func (l *lab) portOf(alloc *harness.Alloc, label string) string {
	l.t.Helper()
	info, err := alloc.Info(l.ctx)
	require.NoError(l.t, err)
	for _, port := range info.AllocatedResources.Shared.Ports {
		if port.Label == label {
			return fmt.Sprintf("%s:%d", port.HostIP, port.Value)
		}
	}
	require.Fail(l.t, "no port "+label)
	return ""
}

// serves waits until a task answers with its secret's colour.
func (l *lab) serves(address, colour string) {
	l.t.Helper()
	l.until("http://"+address+" to serve "+colour, func() error {
		resp, err := http.Get("http://" + address + "/colour")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		content, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(content)) != colour {
			return fmt.Errorf("%s: %q", resp.Status, content)
		}
		return nil
	})
}
