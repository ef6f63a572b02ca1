// Package e2e runs jobs on a real Nomad agent with a real Vault, Docker engine and MariaDB.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
)

// placement is how the shared cluster has the plugin installed.
const placement = harness.InPlace

// shared is the cluster of most tests. A test that stops servers or needs other options makes its own
// agent or Vault in it (NewAgent, NewVault).
var shared *harness.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	manyAtOnce()
	os.Exit(lab.Main(m, start))
}

// manyAtOnce lets more tests run at once than there are processors, unless the caller said how many:
// those that are parallel mostly wait.
func manyAtOnce() {
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if !said {
		_ = flag.Set("test.parallel", "8")
	}
}

func start(ctx context.Context) (*harness.Cluster, error) {
	begin := time.Now()
	cluster, err := harness.Start(ctx, harness.Options{
		Agent: harness.AgentOptions{Placement: placement, SELinuxLabel: "z"},
		Progress: func(line string) {
			fmt.Printf("%6.1fs %s\n", time.Since(begin).Seconds(), line)
		},
	})
	if err == nil {
		fmt.Printf("%6.1fs ready in %s\n", time.Since(begin).Seconds(), cluster.Dir())
		shared = cluster
	}
	return cluster, err
}

// newLab is a lab on the shared agent.
func newLab(t testing.TB) *lab.Lab {
	t.Helper()
	return lab.New(t, shared, shared.Agent)
}

// newLabOn is a lab on an agent that the test has started.
func newLabOn(t testing.TB, agent *harness.Agent) *lab.Lab {
	t.Helper()
	return lab.New(t, shared, agent)
}

// newOwnLab is a lab on an agent of the test's own.
func newOwnLab(t testing.TB, opts harness.AgentOptions, timeout time.Duration) *lab.Lab {
	t.Helper()
	return lab.NewOwn(t, shared, opts, timeout)
}

// newOutageLab is a lab for outages, with an agent and a Vault that the test has started.
func newOutageLab(t testing.TB, agent *harness.Agent, vault *harness.Vault, timeout time.Duration) *lab.OutageLab {
	t.Helper()
	return lab.NewOutage(t, shared, agent, vault, timeout)
}

// newLeakSearch is a search for leaks on an agent of the test's own.
func newLeakSearch(t testing.TB, opts harness.AgentOptions) *lab.LeakSearch {
	t.Helper()
	return lab.NewOwnLeakSearch(t, shared, opts)
}

// newCheckLab is a lab on an agent of the test's own that knows a Consul.
func newCheckLab(t testing.TB, agentName string) lab.CheckLab {
	t.Helper()
	return lab.NewChecks(t, shared, agentName)
}
