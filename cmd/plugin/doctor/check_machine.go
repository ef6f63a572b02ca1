package doctor

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/go-version"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/nomadversion"
)

// What is older is not in docs/support.md.
const (
	oldestKernel = "5.6"
	oldestNomad  = "1.10.0"
	oldestVault  = "1.21.0" // and any of OpenBao, whose numbers are higher
	oldestEngine = "20.10.0"
)

// older reports whether a version is known to be older than another. What follows the numbers of a kernel's does not count.
func older(a, than string) bool {
	numbers := strings.FieldsFunc(a, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if len(numbers) == 0 {
		return false
	}
	va, errA := version.NewVersion(numbers[0])
	vb, errB := version.NewVersion(than)
	return errA == nil && errB == nil && va.LessThan(vb)
}

func (f *findings) machine(n Node) {
	if n.UID != 0 {
		f.warn("user", fmt.Sprintf("the doctor runs as user %d: files and processes that only root sees cannot be looked at", n.UID), "run it as root")
	}
	if older(n.Kernel, oldestKernel) {
		f.fail("kernel", "Linux "+n.Kernel+" has no openat2, without which no task's directory is opened",
			"run Linux "+oldestKernel+" or later; tasks with secrets do not start on this one")
	} else {
		f.ok("kernel", "Linux %s", n.Kernel)
	}
	a := n.Agent
	if a == nil {
		f.warn("agent", "no Nomad agent runs with this configuration: its version, its rights and its environment are not known", "run the doctor again when it runs")
		return
	}
	if a.UID > 0 {
		f.fail("agent", fmt.Sprintf("Nomad's process %d runs as user %d", a.PID, a.UID), "run the client's agent as root: without it no task gets secrets")
	}
	switch {
	case older(a.Version, oldestNomad):
		f.warn("agent", fmt.Sprintf("Nomad %s is older than any that this plugin was tried with", a.Version), "use Nomad "+oldestNomad+" or later")
	case nomadversion.Newer(a.Version, n.Wrapped):
		f.warn("agent", fmt.Sprintf("Nomad %s is newer than the drivers in this plugin, which are of %s", a.Version, n.Wrapped),
			"what Nomad has changed in its drivers since is not in this plugin, but for the security fixes in its README; look for a newer plugin")
	default:
		f.ok("agent", "Nomad %s, process %d; the drivers in this plugin are of Nomad %s", a.Version, a.PID, n.Wrapped)
	}
}

func (f *findings) stateDir(s StateDir) {
	check := "state_dir"
	for _, name := range slices.Sorted(maps.Keys(s.OnDisk)) {
		f.fail(check, fmt.Sprintf("%s/%s is a mount that is not in memory (%s): secrets must not be on a disk", s.Path, name, s.OnDisk[name]),
			"unmount it, and the plugin mounts a tmpfs of its own; or set state_dir to another directory")
	}
	switch {
	case s.Unsafe != nil:
		f.fail(check, fmt.Sprintf("%s: %v", s.Path, s.Unsafe), "make it, and all above it, root's and writable for nobody else; or set state_dir to another directory")
	case len(s.OnDisk) > 0:
	case s.Mounted:
		f.ok(check, "%s is in memory", s.Path)
	case !s.CanMount:
		f.fail(check, s.Path+" is not in memory yet, and the agent may not mount file systems (CAP_SYS_ADMIN)",
			"let the agent mount, or mount a tmpfs at "+s.Path+"/journal and at "+s.Path+"/shared before it starts")
	case s.Missing:
		f.ok(check, "%s is not there yet: the plugin makes it, in memory, at its first task with secrets", s.Path)
	default:
		f.ok(check, "%s: the plugin mounts memory there at its first task with secrets", s.Path)
	}
}

func (f *findings) fuse(n Node) {
	if n.FuseErr != nil {
		f.warn("/dev/fuse", fmt.Sprintf("%v: tasks with a live_dir do not start", n.FuseErr), "modprobe fuse, if jobs here use live_dir")
		return
	}
	f.ok("/dev/fuse", "live directories can be served")
}
