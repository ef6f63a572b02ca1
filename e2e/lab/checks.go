package lab

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// CheckLab is a lab on an agent that knows a Consul of its own.
type CheckLab struct {
	*Lab
	Consul *harness.Consul
}

// NewChecks is such a lab; the agent is the test's own.
func NewChecks(t testing.TB, cluster *harness.Cluster, agentName string) CheckLab {
	t.Helper()
	server, err := cluster.NewConsul(t.Context())
	require.NoError(t, err)
	agent, err := cluster.NewAgent(t.Context(), harness.AgentOptions{
		Name: agentName, Placement: harness.InPlace, Secrets: map[string]any{"poll_interval": "1s"},
		AgentHCL: fmt.Sprintf("consul {\n  address = %q\n}", server.Addr),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, agent.Close()) })
	return CheckLab{New(t, cluster, agent), server}
}

// ScriptCheck is a check of a service. Its command is as in HCL.
func ScriptCheck(name, timeout, command string) string {
	return fmt.Sprintf("check {\n type = \"script\"\n name = %q\n interval = \"1s\"\n timeout = %q\n %s\n}\n", name, timeout, command)
}

// ShellCommand is a command that runs a script.
func ShellCommand(script string) string {
	return fmt.Sprintf("command = \"/bin/sh\"\nargs = [\"-c\", %q]", script)
}

// Check is a service's check as Consul has it, empty while there is none.
func (l CheckLab) Check(service, name string) (consul.AgentCheck, error) {
	filter := fmt.Sprintf("ServiceName == %q and Name == %q", service, name)
	found, err := l.Consul.Client.Agent().ChecksWithFilter(filter)
	for _, c := range found {
		return *c, err
	}
	return consul.AgentCheck{}, err
}

// WatchCheck watches a check from when it passes first. What it returns ends that, and tells how the check
// has failed since.
func (l CheckLab) WatchCheck(service, name string) (failed func() []string) {
	l.T.Helper()
	l.Until("check "+name+" to pass", func() error {
		got, err := l.Check(service, name)
		if err == nil && got.Status != "passing" {
			err = errors.New(got.Status)
		}
		return err
	})
	done := make(chan struct{})
	var watch sync.WaitGroup
	var failures []string
	watch.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for last := "passing"; ; {
			got, err := l.Check(service, name)
			if err != nil {
				failures = append(failures, err.Error())
			} else if got.Status != last {
				failures = append(failures, fmt.Sprintf("%s %s: %q", time.Now().Format(time.StampMilli), got.Status, got.Output))
				last = got.Status
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	stop := sync.OnceFunc(func() {
		close(done)
		watch.Wait()
	})
	l.T.Cleanup(stop)
	return func() []string {
		stop()
		return failures
	}
}
