package guard

import (
	"testing"

	"github.com/shoenig/test/must"
)

// A namespace of the host's needs the operator's word: allow_privileged, or a glob that names the mode
// (CVE-2026-14373).
func TestModes(t *testing.T) {
	lists := Modes{PID: []string{"host"}, IPC: []string{"container:*", "none"}, UTS: []string{"h*"}, Userns: []string{}}
	for _, test := range []struct {
		name    string
		modes   Modes
		wanted  Wanted
		refused string // the option
	}{
		{"nothing is asked for", Modes{}, Wanted{}, ""},
		{"pid", Modes{}, Wanted{PID: "host"}, "pid_mode"},
		{"another container's pid", Modes{}, Wanted{PID: "container:a"}, "pid_mode"},
		{"ipc", Modes{}, Wanted{IPC: "host"}, "ipc_mode"},
		{"ipc of its own, as the newer driver has it", Modes{}, Wanted{IPC: "private"}, "ipc_mode"},
		{"uts", Modes{}, Wanted{UTS: "host"}, "uts_mode"},
		{"userns", Modes{}, Wanted{Userns: "host"}, "userns_mode"},
		{"privileged allows all", Modes{Privileged: true}, Wanted{"host", "host", "host", "host"}, ""},
		{"listed", lists, Wanted{PID: "host", IPC: "none", UTS: "host"}, ""},
		{"by a glob", lists, Wanted{IPC: "container:a-b"}, ""},
		{"not by that glob", lists, Wanted{IPC: "host"}, "ipc_mode"},
		{"a list is for one namespace", lists, Wanted{Userns: "host"}, "userns_mode"},
		{"a part is no match", lists, Wanted{PID: "host2"}, "pid_mode"},
	} {
		err := test.modes.Check(test.wanted)
		if test.refused == "" {
			must.NoError(t, err, must.Sprint(test.name))
			continue
		}
		must.ErrorContains(t, err, test.refused, must.Sprint(test.name))
		must.ErrorContains(t, err, "allowed_modes", must.Sprint(test.name))
		must.ErrorContains(t, err, "allow_privileged", must.Sprint(test.name))
	}
}
