package driver

import (
	"fmt"
	"maps"

	"github.com/hashicorp/nomad/drivers/rawexec"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// scrub takes the environment out of an inner driver's handle, which Nomad writes to disk and we to
// the journal (L2). It stays the inner driver's own otherwise, so that the built-in driver can
// recover the task after us.
func scrub(h *drivers.TaskHandle) (*drivers.TaskHandle, error) {
	clean := *h
	clean.Config = withoutEnv(h.Config)
	var state rawexec.TaskState
	if err := h.GetDriverState(&state); err != nil {
		return nil, fmt.Errorf("read the wrapped driver's handle: %w", err)
	}
	if state.TaskConfig == nil { // docker's state: no config in it
		return &clean, nil
	}
	state.TaskConfig = withoutEnv(state.TaskConfig)
	if err := clean.SetDriverState(&state); err != nil {
		return nil, fmt.Errorf("write the wrapped driver's handle: %w", err)
	}
	return &clean, nil
}

func withoutEnv(cfg *drivers.TaskConfig) *drivers.TaskConfig {
	c := cfg.Copy()
	c.Env, c.DeviceEnv = nil, nil
	return c
}

// withEnv is a copy of env with more in it.
func withEnv(env, more map[string]string) map[string]string {
	out := maps.Clone(env)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, more)
	return out
}
