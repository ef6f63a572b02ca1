package driver

import (
	"fmt"
	"os"

	"github.com/hashicorp/nomad/drivers/rawexec"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/guard"
)

// Every start and recovery under a wrapped driver goes through here, with secrets and without: what newer
// drivers of Nomad's refuse or make safe is refused or made safe first (package guard).

// guardConfig is what the guard must know of the docker driver's plugin config. All of it is the wrapped
// driver's own, but for allowed_modes, which is that of newer ones.
type guardConfig struct {
	AllowPrivileged bool `codec:"allow_privileged"`
	AllowedModes    struct {
		PID    []string `codec:"pid"`
		IPC    []string `codec:"ipc"`
		UTS    []string `codec:"uts"`
		Userns []string `codec:"userns"`
	} `codec:"allowed_modes"`
	Volumes struct {
		Enabled      bool   `codec:"enabled"`
		SelinuxLabel string `codec:"selinuxlabel"`
	} `codec:"volumes"`
	DisableLogCollection bool `codec:"disable_log_collection"`
}

type guardOptions struct {
	modes        guard.Modes
	volumes      bool   // any path of the host may be bound
	selinuxLabel string // of what is bound
	noLogs       bool   // the wrapped driver collects none
	pins         string // where guard.Pins are
}

func (c guardConfig) options(pins string) guardOptions {
	return guardOptions{
		modes: guard.Modes{
			Privileged: c.AllowPrivileged,
			PID:        c.AllowedModes.PID, IPC: c.AllowedModes.IPC, UTS: c.AllowedModes.UTS, Userns: c.AllowedModes.Userns,
		},
		volumes: c.Volumes.Enabled, selinuxLabel: c.Volumes.SelinuxLabel,
		noLogs: c.DisableLogCollection, pins: pins,
	}
}

func (d *Driver) guardOptions() guardOptions {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opts.guard
}

// startPlain starts a task without secrets: it is the wrapped driver's.
func (d *Driver) startPlain(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	logs := newLogPipes(cfg)
	defer logs.release()
	return d.startInner(cfg, logs)
}

// startInner is the wrapped driver's StartTask, guarded. The handle is as if it had not been.
func (d *Driver) startInner(cfg *drivers.TaskConfig, logs *logPipes) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	if d.wrapped.pullTurn != nil {
		release, err := d.wrapped.pullTurn(d, cfg)
		if err != nil {
			return nil, nil, err
		}
		defer release()
	}
	o := d.guardOptions()
	guarded := cfg.Copy()
	if err := d.guardDirs(guarded, logs, o); err != nil {
		return nil, nil, retryable(err)
	}
	if d.wrapped.guardStart != nil {
		release, err := d.wrapped.guardStart(d, guarded, o)
		if err != nil {
			return nil, nil, retryable(err)
		}
		defer release()
	}
	handle, network, err := d.inner.StartTask(guarded)
	if err != nil {
		return nil, nil, err
	}
	if err := unguarded(handle, cfg); err != nil {
		_ = d.inner.DestroyTask(cfg.ID, true)
		return nil, nil, err
	}
	return handle, network, nil
}

// guardDirs makes safe what the wrapped driver opens as root in the allocation's directory. Nomad gives each task one; without,
// there is nothing of a task's, and what is wrong with that is the wrapped driver's to say.
func (d *Driver) guardDirs(cfg *drivers.TaskConfig, logs *logPipes, o guardOptions) error {
	if cfg.AllocDir == "" {
		return nil
	}
	rootsFiles, err := d.wrapped.guardDirs(cfg)
	if err != nil {
		return err
	}
	if own := refuseSharedDir(cfg) == nil; own {
		if err := guard.HardenTaskDir(cfg.AllocDir, cfg.Name, rootsFiles...); err != nil {
			return err
		}
	}
	if o.noLogs {
		return nil
	}
	return logs.lend(cfg, o.pins, func(pins *guard.Pins) { d.wrapped.releaseLogs(d, pins) })
}

// unguarded gives a handle the task's own paths again: ours are gone by the time that it is used.
func unguarded(handle *drivers.TaskHandle, own *drivers.TaskConfig) error {
	restore := func(cfg *drivers.TaskConfig) *drivers.TaskConfig {
		c := *cfg
		c.StdoutPath, c.StderrPath, c.Mounts = own.StdoutPath, own.StderrPath, own.Mounts
		return &c
	}
	if handle.Config != nil {
		handle.Config = restore(handle.Config)
	}
	var state rawexec.TaskState
	if err := handle.GetDriverState(&state); err != nil {
		return fmt.Errorf("read the wrapped driver's handle: %w", err)
	}
	if state.TaskConfig == nil { // docker's
		return nil
	}
	state.TaskConfig = restore(state.TaskConfig)
	if err := handle.SetDriverState(&state); err != nil {
		return fmt.Errorf("write the wrapped driver's handle: %w", err)
	}
	return nil
}

// recoverOnly is recoverInner for a task whose logs nobody holds.
func (d *Driver) recoverOnly(handle *drivers.TaskHandle) error {
	logs := newLogPipes(handle.Config)
	defer logs.release()
	return d.recoverInner(handle, logs)
}

// recoverInner is the wrapped driver's RecoverTask, guarded. A task that runs goes on, whatever became of its
// directories: a logger that has to be started anew gets no FIFO then.
func (d *Driver) recoverInner(handle *drivers.TaskHandle, logs *logPipes) error {
	h := *handle
	h.Config = handle.Config.Copy()
	if err := d.guardDirs(h.Config, logs, d.guardOptions()); err != nil {
		d.log.Warn("the task's directory is not as Nomad made it; logs may be lost", "task_id", h.Config.ID, "error", err)
		for _, path := range []*string{&h.Config.StdoutPath, &h.Config.StderrPath} {
			if *path != "" && *path != os.DevNull {
				*path = "/proc/self/fd/none" // there is no such file
			}
		}
	}
	err := d.inner.RecoverTask(&h)
	handle.DriverState = h.DriverState // it may have started another logger
	return err
}
