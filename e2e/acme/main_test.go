// Package acme runs the issuer of certificates against a real Vault and a test authority that rejects good nonces
// and delays validations at random; and as a job on a real Nomad, beside a web server that has its certificate.
package acme

import (
	"context"
	"errors"
	"flag"
	"os"
	"testing"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	e2elab "github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
)

// shared is a Vault. A test that stops it makes its own, and the one that runs jobs a whole cluster.
var shared *harness.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "24") // they mostly wait
	os.Exit(e2elab.Main(m, start))
}

func start(ctx context.Context) (*harness.Cluster, error) {
	cluster, err := harness.StartVault(ctx)
	if err != nil {
		return nil, err
	}
	if err := cluster.Vault.EnableKV2(ctx, "secret"); err != nil {
		return nil, errors.Join(err, cluster.Close())
	}
	shared = cluster
	return cluster, nil
}
