package lab

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// startTimeout is for a cluster's first start on a machine, which builds its programs and images.
const startTimeout = 5 * time.Minute

// Main runs a package's tests on a cluster of their own, and returns the exit code. A start that fails leaves
// nothing running.
func Main(m *testing.M, start func(ctx context.Context) (*harness.Cluster, error)) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if signal.Ignored(syscall.SIGHUP) { // nohup: every task would inherit that, and a shell's cannot be told otherwise
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cluster, err := start(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	code := m.Run()
	if err := cluster.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: clean up:", err)
		return 1
	}
	return code
}
