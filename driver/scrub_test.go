package driver

import (
	"bytes"
	"testing"

	"github.com/hashicorp/nomad/drivers/rawexec"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// L2: neither half of raw_exec's handle keeps the environment, and the built-in driver can still
// read it.
func TestScrub(t *testing.T) {
	cfg := &drivers.TaskConfig{ID: "a/b/c", Name: "b", Env: map[string]string{"DB_PASSWORD": "canary"}}
	h := drivers.NewTaskHandle(1)
	h.Config = cfg
	must.NoError(t, h.SetDriverState(&rawexec.TaskState{TaskConfig: cfg, Pid: 42}))
	must.True(t, bytes.Contains(h.DriverState, []byte("canary")))

	clean, err := scrub(h)
	must.NoError(t, err)
	must.False(t, bytes.Contains(clean.DriverState, []byte("canary")))
	must.MapEmpty(t, clean.Config.Env)
	must.Eq(t, "canary", cfg.Env["DB_PASSWORD"]) // the task's own is not touched
	var state rawexec.TaskState
	must.NoError(t, clean.GetDriverState(&state))
	must.Eq(t, 42, state.Pid)
	must.Eq(t, "a/b/c", state.TaskConfig.ID)
}

// The journal keeps no token of Nomad's.
func TestRecordHasNoToken(t *testing.T) {
	cfg := &drivers.TaskConfig{ID: "a/b/c", Env: map[string]string{"VAULT_TOKEN": "canary", "A": "b"}}
	raw, err := record{}.encode(cfg, nil)
	must.NoError(t, err)
	_, got, _, err := decodeRecord(raw)
	must.NoError(t, err)
	must.Eq(t, map[string]string{"VAULT_TOKEN": "", "A": "b"}, got.Env)
	must.Eq(t, "canary", cfg.Env["VAULT_TOKEN"])
}
