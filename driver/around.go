//go:build nomadsuites

package driver

import (
	"context"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// Around is New with an inner driver that is there already. Nomad's own tests of its drivers look into the one that they have
// made; `make nomad-suites` has them served one of these around it.
func Around(ctx context.Context, name string, inner drivers.DriverPlugin, log hclog.Logger) Plugin {
	w := *served[name]
	w.open = func(context.Context, hclog.Logger) drivers.DriverPlugin { return inner }
	return w.serve(newDriver(ctx, name, &w, log))
}
