package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// A task with secrets is reached over each kind of network as one without: a group network in bridge
// mode, Docker's own bridge with a port map, and the host's. So is the process that comes after a
// rotation, at the same address (C8).
func TestNetworks(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.PutColour("networks", "green")
	l.AllowLeased("networks", "secret/data/networks")
	tests := []lab.Vars{
		{"name": "network-bridge", "mode": "bridge", "to": 8080, "listen": "8080"},
		{"name": "network-port-map", "to": 8080, "ports": []string{"http"}, "listen": "8080"},
		{"name": "network-host", "network_mode": "host", "listen": "$NOMAD_PORT_http"},
	}
	allocs := make([]*harness.Alloc, len(tests))
	jobs := make([]*harness.Job, len(tests))
	for i, test := range tests {
		jobs[i] = l.SubmitFile("network", test)
	}
	addresses := make([]string, len(tests))
	for i, job := range jobs {
		var err error
		allocs[i], err = job.Running(l.Ctx)
		require.NoError(t, err)
		addresses[i] = l.PortOf(allocs[i], "http")
		serves(l, addresses[i], "green")
	}
	l.PutColour("networks", "blue")
	for i, alloc := range allocs {
		l.Lines(alloc, "web", "start blue", 1)
		serves(l, addresses[i], "blue")
		l.NotRestarted(alloc, "web")
	}
}

// serves waits until a task answers with its secret's colour.
func serves(l *lab.Lab, address, colour string) {
	l.T.Helper()
	l.Until("http://"+address+" to serve "+colour, func() error {
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
