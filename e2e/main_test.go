// Package e2e runs jobs on a real Nomad agent with a real Vault, Docker engine and MariaDB.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// shared is the cluster of most tests. A test that stops servers or needs other options makes its own
// agent or Vault in it (NewAgent, NewVault).
var shared *harness.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	manyAtOnce()
	os.Exit(run(m))
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

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()

	begin := time.Now()
	cluster, err := harness.Start(ctx, harness.Options{
		Agent: harness.AgentOptions{Placement: placement, SELinuxLabel: "z"},
		Progress: func(line string) {
			fmt.Printf("%6.1fs %s\n", time.Since(begin).Seconds(), line)
		},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	fmt.Printf("%6.1fs ready in %s\n", time.Since(begin).Seconds(), cluster.Dir())
	shared = cluster
	code := m.Run()
	if err := cluster.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: clean up:", err)
		return 1
	}
	return code
}
