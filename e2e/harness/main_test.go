// Package harness_test shows that the servers of package harness work together, so that a failure of theirs is not
// taken for one of the plugin.
package harness_test

import (
	"context"
	"os"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
)

// shared is the cluster of all tests.
var shared *harness.Cluster

func TestMain(m *testing.M) {
	os.Exit(lab.Main(m, func(ctx context.Context) (cluster *harness.Cluster, err error) {
		shared, err = harness.Start(ctx, harness.Options{Agent: harness.AgentOptions{Placement: harness.InPlace, SELinuxLabel: "z"}})
		return shared, err
	}))
}

// newLab is a lab on the shared agent.
func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	return lab.New(t, shared, shared.Agent)
}
