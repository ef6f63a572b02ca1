package driver

import (
	"context"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// Nomad finds a driver's optional abilities by type assertions on the served value, so there is
// one served type a driver, with exactly the optional methods of the inner one (DESIGN 9).

// Docker serves the docker driver.
type Docker struct{ *Driver }

var (
	_ drivers.DriverPlugin            = (*Docker)(nil)
	_ drivers.DriverNetworkManager    = (*Docker)(nil)
	_ drivers.ExecTaskStreamingDriver = (*Docker)(nil)
)

// CreateNetwork makes a group's network: it has no secrets in it, and is the inner driver's.
func (d *Docker) CreateNetwork(allocID string, req *drivers.NetworkCreateRequest) (*drivers.NetworkIsolationSpec, bool, error) {
	return d.inner.(drivers.DriverNetworkManager).CreateNetwork(allocID, req)
}

// DestroyNetwork undoes CreateNetwork.
func (d *Docker) DestroyNetwork(allocID string, spec *drivers.NetworkIsolationSpec) error {
	return d.inner.(drivers.DriverNetworkManager).DestroyNetwork(allocID, spec)
}

// ExecTaskStreaming runs a command in a task's container, with its secrets in the environment.
func (d *Docker) ExecTaskStreaming(ctx context.Context, taskID string, opts *drivers.ExecOptions) (*drivers.ExitResult, error) {
	inner := d.inner.(drivers.ExecTaskStreamingDriver)
	t := d.tasks.get(taskID)
	if t == nil {
		return inner.ExecTaskStreaming(ctx, taskID, opts)
	}
	return t.execStreaming(ctx, inner, opts)
}

// RawExec serves the raw_exec driver.
type RawExec struct{ *Driver }

var (
	_ drivers.DriverPlugin               = (*RawExec)(nil)
	_ drivers.ExecTaskStreamingRawDriver = (*RawExec)(nil)
)

// ExecTaskStreamingRaw runs a command beside a task's process, with its secrets in the environment.
func (d *RawExec) ExecTaskStreamingRaw(ctx context.Context, taskID string, command []string, tty bool, stream drivers.ExecTaskStream) error {
	inner := d.inner.(drivers.ExecTaskStreamingRawDriver)
	t := d.tasks.get(taskID)
	if t == nil {
		return inner.ExecTaskStreamingRaw(ctx, taskID, command, tty, stream)
	}
	return t.execStreamingRaw(ctx, inner, command, tty, stream)
}
