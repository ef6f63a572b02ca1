//go:build nomadsuites

// Package serve gives Nomad's own tests of its drivers what they are served: the driver that they have made, or ours
// around it. It is compiled into a copy of those tests (e2e/nomadsuites/run).
package serve

import (
	"context"
	"os"
	"testing"

	"github.com/hashicorp/nomad/helper/testlog"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
)

// Around gives what is served in the place of a driver. With NOMAD_SUITES=ours it is ours, under the name of the
// driver that it wraps.
func Around(name string) func(*testing.T, drivers.DriverPlugin) drivers.DriverPlugin {
	return func(t *testing.T, made drivers.DriverPlugin) drivers.DriverPlugin {
		if os.Getenv("NOMAD_SUITES") != "ours" {
			return made
		}
		ours := driver.Around(context.Background(), name, made, testlog.HCLogger(t))
		t.Cleanup(ours.Close)
		return ours
	}
}
