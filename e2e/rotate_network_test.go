package e2e

import (
	"errors"
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

// C8: on a user-defined Docker network with a subnet of its own, a restart in place keeps the address at which Nomad has registered the
// task, also where a lower one is free, however often. On one whose subnet the engine has chosen, it can keep it by chance alone: the
// start says so, and where it does not, Nomad restarts the task, and registers its new address.
func TestUserDefinedNetworks(t *testing.T) {
	t.Parallel()
	t.Run("the subnet is given", func(t *testing.T) {
		t.Parallel()
		l, alloc, address := onOwnNetwork(t, "network-own", true)
		for _, colour := range []string{"blue", "red", "white"} { // more than a job may fail by default
			l.PutColour("network-own", colour)
			l.Lines(alloc, "web", "start "+colour, 1)
			serves(l, address, colour)
			l.NotRestarted(alloc, "web")
			require.Equal(t, address, registered(l, "network-own"))
		}
		events, err := alloc.Events(l.Ctx, "web")
		require.NoError(t, err)
		require.NotContains(t, strings.Join(events, "\n"), "address")
	})
	t.Run("the engine has chosen the subnet", func(t *testing.T) {
		t.Parallel()
		l, alloc, address := onOwnNetwork(t, "network-chosen", false)
		_, err := alloc.WaitEvent(l.Ctx, "web", "a container cannot ask for its address. If a restart for new secrets changes the address, Nomad restarts the task")
		require.NoError(t, err)
		l.PutColour("network-chosen", "blue")
		_, err = alloc.WaitEvent(l.Ctx, "web", "left to Nomad to restart, since its address changed")
		require.NoError(t, err)
		l.Until("the new address to be registered", func() error {
			if now := registered(l, "network-chosen"); now == address || now == "" {
				return fmt.Errorf("it is %q, as before", now)
			}
			return nil
		})
		serves(l, registered(l, "network-chosen"), "blue")
		restarts, err := alloc.Restarts(l.Ctx, "web")
		require.NoError(t, err)
		require.EqualValues(t, 1, restarts)
		require.Len(t, l.Lines(alloc, "web", "start blue", 1), 1, "the new program does not run where nobody finds it")
	})
}

// onOwnNetwork starts a task on a user-defined network that is called like it. An address below the task's is free when it runs.
func onOwnNetwork(t *testing.T, name string, ownSubnet bool) (l *lab.Lab, alloc *harness.Alloc, address string) {
	t.Helper()
	l = newLab(t)
	network, err := l.NewDockerNetwork(l.Ctx, name, ownSubnet)
	require.NoError(t, err)
	leave, err := network.Occupy(l.Ctx)
	require.NoError(t, err)
	l.PutColour(name, "green")
	l.AllowLeased(name, "secret/data/"+name)
	alloc = l.RunFile("network-own", lab.Vars{"name": name, "network": network.Name})
	l.Until("the service to be registered", func() error {
		if address = registered(l, name); address == "" {
			return errors.New("it is not")
		}
		return nil
	})
	serves(l, address, "green")
	require.NoError(t, leave(l.Ctx))
	return l, alloc, address
}

// registered is where Nomad says that a service is; empty: nowhere.
func registered(l *lab.Lab, service string) string {
	l.T.Helper()
	all, _, err := l.Agent.Client().Services().Get(service, nil)
	require.NoError(l.T, err)
	if len(all) == 0 {
		return ""
	}
	require.Len(l.T, all, 1)
	return fmt.Sprintf("%s:%d", all[0].Address, all[0].Port)
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
