package driver

import (
	"context"
	"fmt"

	"github.com/hashicorp/nomad/drivers/rawexec"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/guard"
)

// wrappedRawExec is Nomad's raw_exec driver.
var wrappedRawExec = wrapped{
	name:       "raw_exec",
	open:       rawexec.NewRawExecDriver,
	taskSchema: new(rawexec.Driver).TaskConfigSchema,
	serve:      func(d *Driver) Plugin { return &RawExec{Driver: d} },
	optIn:      true,
	runner:     func(*Driver, bool) runner { return &processes{} },
	// Nomad refuses mounts for the built-in, but does not ask a plugin.
	check: func(cfg *drivers.TaskConfig) error {
		if len(cfg.Mounts) > 0 {
			return fmt.Errorf("the task asks for a mount at %s, and raw_exec has none: remove the volume_mount block", cfg.Mounts[0].TaskPath)
		}
		return nil
	},
	guardDirs: func(*drivers.TaskConfig) ([]string, error) { return []string{"executor.out"}, nil },
	// The executor has opened its FIFOs before it answers.
	releaseLogs: func(_ *Driver, pins *guard.Pins) { pins.Release() },
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
