package live

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	own, err := ownCgroups()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range mounts {
		if m.Type != "cgroup" && m.Type != "cgroup2" {
			continue
		}
		if !own[filepath.Base(m.Point)] && m.Type == "cgroup" || filepath.Base(m.Point) == "cpuset" {
			continue // a cpuset of its own would need to be told its processors; it limits nothing to stay
		}
		dir := filepath.Join(m.Point, cgroupName)
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

// ownCgroups are the names of the hierarchies of version 1, each as its directory is called.
func ownCgroups() (map[string]bool, error) {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names := map[string]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		parts := strings.SplitN(lines.Text(), ":", 3)
		if len(parts) == 3 && parts[1] != "" {
			names[strings.TrimPrefix(parts[1], "name=")] = true
		}
	}
	return names, lines.Err()
}
