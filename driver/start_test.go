package driver

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A task with secrets has a directory that is its own, whatever its name.
func TestSharedTaskDirsAreRefused(t *testing.T) {
	for name, own := range map[string]bool{
		".": false, "..": false,
		"web": true, "...": true, "..a": true, "a..": true, " ": true, "%2E%2E": true, "\u00e9": true,
	} {
		cfg := &drivers.TaskConfig{Name: name, AllocDir: "/allocs/a"}
		err := refuseSharedDir(cfg)
		if !own {
			must.EqOp(t, secrets.Invalid, secrets.KindOf(err), must.Sprintf("%q", name))
			continue
		}
		must.NoError(t, err)
		must.EqOp(t, cfg.AllocDir, filepath.Dir(cfg.TaskDir().Dir), must.Sprintf("%q", name))
	}
}

// What is no fault of the job's is tried again within its restart block.
func TestStartErrors(t *testing.T) {
	for _, test := range []struct {
		err         error
		recoverable bool
	}{
		{secrets.Errorf(secrets.Outage, "the server is away"), true},
		{secrets.Errorf(secrets.Invalid, "bad option"), false},
		{fmt.Errorf("container c ended (exit code 137) before its program ran: %w", launcher.ErrEnded), true},
		{fmt.Errorf("start the program: %w", launcher.ErrTimeout), true},
		{fmt.Errorf("start container c: %w", &launcher.ExecError{Text: "no such file"}), false},
		{structs.NewRecoverableError(errors.New("the wrapped driver's"), true), true},
		{errors.New("any other"), false},
	} {
		got := new(Driver).startError(test.err)
		must.EqOp(t, test.recoverable, structs.IsRecoverable(got), must.Sprint(test.err))
		must.StrContains(t, got.Error(), test.err.Error())
	}
}
