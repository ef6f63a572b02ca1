package guard

import (
	"fmt"

	"github.com/ryanuber/go-glob"
)

// Modes is what the operator allows of the host's namespaces: everything with Privileged, else the modes
// that a glob of the namespace's list names. It is the plugin's allow_privileged and allowed_modes.
type Modes struct {
	Privileged bool
	PID        []string
	IPC        []string
	UTS        []string
	Userns     []string
}

// Wanted is the namespaces that a task asks for; empty is the engine's default.
type Wanted struct{ PID, IPC, UTS, Userns string }

// Check refuses a mode that is not allowed.
func (m Modes) Check(w Wanted) error {
	if m.Privileged {
		return nil
	}
	for _, ns := range []struct {
		option, list, mode string
		allowed            []string
	}{
		{"pid_mode", "pid", w.PID, m.PID},
		{"ipc_mode", "ipc", w.IPC, m.IPC},
		{"uts_mode", "uts", w.UTS, m.UTS},
		{"userns_mode", "userns", w.Userns, m.Userns},
	} {
		if ns.mode != "" && !anyGlob(ns.allowed, ns.mode) {
			return fmt.Errorf("%s = %q is not allowed on this node: the operator can allow it in the plugin's config, with allowed_modes { %s = [%[2]q] } or allow_privileged = true",
				ns.option, ns.mode, ns.list)
		}
	}
	return nil
}

func anyGlob(globs []string, value string) bool {
	for _, pattern := range globs {
		if glob.Glob(pattern, value) {
			return true
		}
	}
	return false
}
