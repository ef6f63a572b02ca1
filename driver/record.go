package driver

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// record is what the driver journals of a task: all that a later process of this plugin needs to
// recover the task and to restart it in place. Nomad keeps neither the handle of a process started
// after a rotation nor, over its own restart, the wrapped driver's config (docs/nomad.md).
type record struct {
	Config  []byte // the TaskConfig, msgpack, as Nomad's own drivers keep it; without Nomad's token
	Options []byte // the wrapped driver's part of the job's config, msgpack

	HandleVersion int
	HandleState   []byte
	Network       *drivers.DriverNetwork
	Owner         owner
	Image         string
	Channel       bool // of a container: it has one; those of older plugins do not

	// Replacing is set while a restart in place is under way: the handle may name no process.
	Replacing bool
	// FinishBy is until when the old process may finish what it is serving, in a restart in place that lets it.
	FinishBy time.Time `json:",omitzero"`
}

// writeRecord journals the task as it is now.
func (t *task) writeRecord(replacing bool) error {
	p := t.currentProcess()
	n := record{Network: p.network, Owner: p.owner, Image: p.image, Channel: p.channel, Replacing: replacing}
	if replacing {
		n.FinishBy = t.finishBy
	}
	if p.handle != nil {
		n.HandleVersion, n.HandleState = p.handle.Version, p.handle.DriverState
	}
	raw, err := n.encode(t.cfg, t.options)
	if err != nil {
		return err
	}
	return t.session.SetDriver(raw)
}

func (n record) encode(cfg *drivers.TaskConfig, options map[string]any) (json.RawMessage, error) {
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

func decodeRecord(raw json.RawMessage) (n record, cfg *drivers.TaskConfig, options map[string]any, err error) {
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
