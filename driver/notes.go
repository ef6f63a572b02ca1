package driver

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/hashicorp/nomad/drivers/rawexec"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// notes is what the driver journals of a task: all that a later process of this plugin needs to
// take the task up and to restart it in place. Nomad keeps neither the handle of a process started
// after a rotation nor, over its own restart, the wrapped driver's config (DESIGN 9).
type notes struct {
	Config  []byte // the TaskConfig, msgpack, as Nomad's own drivers keep it; without Nomad's token
	Options []byte // the wrapped driver's part of the job's config, msgpack

	HandleVersion int
	HandleState   []byte
	Network       *drivers.DriverNetwork
	Owner         owner
	Image         string

	// Replacing is set while a restart in place is under way: the handle may name no process.
	Replacing bool
}

// note journals the task as it is now.
func (t *task) note(replacing bool) error {
	p := t.currentProcess()
	n := notes{Network: p.network, Owner: p.owner, Image: p.image, Replacing: replacing}
	if p.handle != nil {
		n.HandleVersion, n.HandleState = p.handle.Version, p.handle.DriverState
	}
	raw, err := n.encode(t.cfg, t.options)
	if err != nil {
		return err
	}
	return t.session.SetDriver(raw)
}

func (n notes) encode(cfg *drivers.TaskConfig, options map[string]any) (json.RawMessage, error) {
	tokenless := cfg.Copy()
	if _, ok := tokenless.Env[vaultTokenEnv]; ok {
		tokenless.Env[vaultTokenEnv] = "" // restoreToken fills it in
	}
	if err := base.MsgPackEncode(&n.Config, tokenless); err != nil {
		return nil, fmt.Errorf("note the task's config: %w", err)
	}
	if err := base.MsgPackEncode(&n.Options, options); err != nil {
		return nil, fmt.Errorf("note the task's options: %w", err)
	}
	return json.Marshal(n)
}

func decodeNotes(raw json.RawMessage) (n notes, cfg *drivers.TaskConfig, options map[string]any, err error) {
	if err := json.Unmarshal(raw, &n); err != nil {
		return n, nil, nil, err
	}
	cfg = new(drivers.TaskConfig)
	if err := base.MsgPackDecode(n.Config, cfg); err != nil {
		return n, nil, nil, err
	}
	if err := base.MsgPackDecode(n.Options, &options); err != nil {
		return n, nil, nil, err
	}
	return n, cfg, options, nil
}

// scrub takes the environment out of an inner driver's handle, which Nomad writes to disk and we to
// the journal (L2). It stays the inner driver's own otherwise, so that the built-in driver can take
// the task up after us.
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
