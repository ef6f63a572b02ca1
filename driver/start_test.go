package driver

import (
	"fmt"
	"path/filepath"
	"strings"
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

// What Nomad keeps in its Raft log is short, and is tried again all the same (S8).
func TestErrorsAndEventsAreShort(t *testing.T) {
	long := secrets.Errorf(secrets.Outage, "what is wrong: %s", strings.Repeat("x", 1<<20))
	for _, err := range []error{long, structs.NewRecoverableError(long, true), fmt.Errorf("start: %w: %w", launcher.ErrEnded, long)} {
		got := startError(err)
		must.True(t, structs.IsRecoverable(got))
		must.LessEq(t, 2<<10, len(got.Error()))
		must.StrContains(t, got.Error(), "what is wrong: xxx")
	}
	e := &events{recovered: map[string][]*drivers.TaskEvent{}}
	e.emit(&drivers.TaskConfig{ID: "web"}, "Secrets: "+strings.Repeat("x", 1<<20))
	must.LessEq(t, 2<<10, len(e.queued[0].Message))
	must.StrHasPrefix(t, "Secrets: xxx", e.queued[0].Message)

	tk := fakeTask(t, &fakeRunner{inner: newFakeInner()})
	tk.finish(&drivers.ExitResult{ExitCode: -1, Err: long})
	awaitPhase(t, tk, phaseReleased)
	must.LessEq(t, 2<<10, len(tk.state.exitResult().Err.Error()))
}
