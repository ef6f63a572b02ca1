package main

import (
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher/internal/wire"
)

// become execs. The look-up is os/exec's over the app's own PATH, because that is what runc does,
// and so are the texts of its errors. It returns only on failure.
func become(p wire.Payload) error {
	env := merge(os.Environ(), p.Env, p.Unset)
	path := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	if err := os.Setenv("PATH", path); err != nil {
		return err
	}
	file, err := exec.LookPath(p.Argv[0])
	if err != nil {
		return err
	}
	if err := limitProcesses(p.Processes); err != nil {
		return err
	}
	// Exec also gives back the limit of open files that Go's runtime raised for itself.
	return &fs.PathError{Op: "exec", Path: file, Err: syscall.Exec(file, p.Argv, env)}
}

// limitProcesses gives the app the limit that its job asks for, which this program would not have come up
// under. A thread that the runtime needs from here on could not be made, and that ends a Go program: so there
// is only one left to run, and nothing to collect.
func limitProcesses(to *wire.Limit) error {
	if to == nil {
		return nil
	}
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	limit := syscall.Rlimit{Cur: to.Soft, Max: to.Hard}
	if err := syscall.Setrlimit(rlimitNproc, &limit); err != nil {
		return &fs.PathError{Op: "set", Path: "ulimit nproc", Err: err}
	}
	return nil
}

const rlimitNproc = 6 // RLIMIT_NPROC, which package syscall does not have

// merge gives own with set over it, less what is in unset.
func merge(own, set, unset []string) []string {
	over := make(map[string]int, len(set)+len(unset)) // name → its last place in set, or -1
	for _, name := range unset {
		over[name] = -1
	}
	for i, e := range set {
		name, _, _ := strings.Cut(e, "=")
		over[name] = i
	}
	env := make([]string, 0, len(own)+len(set))
	for _, e := range own {
		name, _, _ := strings.Cut(e, "=")
		if _, ok := over[name]; !ok {
			env = append(env, e)
		}
	}
	for i, e := range set {
		name, _, _ := strings.Cut(e, "=")
		if over[name] == i {
			env = append(env, e)
		}
	}
	return env
}
