package live

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/mountinfo"
)

// cgroupName is that of the file server's own cgroup, at the top of each hierarchy.
const cgroupName = "nomad-driver-secrets-live"

// Its part of a busy machine's processors is that of 20 others. What it does is little, and whoever reads waits for it: without
// that, reads on a machine with many running programs took a second.
const (
	cpuWeight = "2000"  // version 2; the default is 100
	cpuShares = "20480" // version 1; 1024
)

// leaveCgroup moves a file server out of its feeder's cgroup, whose end (a service that is stopped, a limit that is reached)
// must not be its own.
func leaveCgroup(pid int) error {
	mounts, err := mountinfo.Self()
	if err != nil {
		return err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	return joinOwnCgroup(hierarchies(mounts, string(own)), pid)
}

// hierarchies are where the hierarchies are mounted that this process is in: the one of version 2, those of version 1, or, on a
// machine that has both, all of them. own is /proc/self/cgroup.
func hierarchies(mounts []mountinfo.Mount, own string) []string {
	names := version1(own)
	var tops []string
	for _, m := range mounts {
		switch m.Type {
		case "cgroup2":
			tops = append(tops, m.Point)
		case "cgroup":
			// Its directory is named after its controllers: "cpu,cpuacct", in whatever order. A cpuset of its own would need to
			// be told its processors; it limits nothing to stay.
			controllers := strings.Split(filepath.Base(m.Point), ",")
			if slices.ContainsFunc(controllers, func(c string) bool { return names[c] }) && !slices.Contains(controllers, "cpuset") {
				tops = append(tops, m.Point)
			}
		}
	}
	return tops
}

// version1 are the controllers of version 1, and the hierarchies that have a name in a controller's place.
func version1(own string) map[string]bool {
	names := map[string]bool{}
	for line := range strings.Lines(own) {
		if parts := strings.SplitN(line, ":", 3); len(parts) == 3 {
			for name := range strings.SplitSeq(parts[1], ",") {
				names[strings.TrimPrefix(name, "name=")] = true
			}
		}
	}
	return names
}

// joinOwnCgroup moves a process to a cgroup at the top of each hierarchy.
func joinOwnCgroup(tops []string, pid int) error {
	var errs []error
	for _, top := range tops {
		dir := filepath.Join(top, cgroupName)
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = write(dir, "cgroup.procs", strconv.Itoa(pid))
		}
		for file, weight := range map[string]string{"cpu.weight": cpuWeight, "cpu.shares": cpuShares} {
			if werr := write(dir, file, weight); !errors.Is(werr, fs.ErrNotExist) { // it is where the hierarchy has the controller
				err = errors.Join(err, werr)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("move the file server to its own cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

// write writes a file that is there: a cgroup's directory has those that it has.
func write(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
