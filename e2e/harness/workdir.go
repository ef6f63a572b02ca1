package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"golang.org/x/sys/unix"
)

const (
	workDirPrefix = "nds-e2e-"
	allocIDLabel  = "com.hashicorp.nomad.alloc_id"
)

// workDir is the directory that holds everything of one cluster. A lock on it says that its owner
// lives; a directory whose lock is free was left by a run that was killed.
type workDir struct {
	path string
	lock *os.File
}

func newWorkDir() (*workDir, error) {
	// One run at a time: else a directory is swept by another between its making and its locking.
	gate, err := os.Create(filepath.Join(os.TempDir(), strings.TrimSuffix(workDirPrefix, "-")+".lock"))
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	if err := unix.Flock(int(gate.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", gate.Name(), err)
	}
	sweepAbandoned()
	path, err := newShortDir()
	if err != nil {
		return nil, err
	}
	lock, err := os.Create(path + ".lock")
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	return &workDir{path: path, lock: lock}, nil
}

// newShortDir makes a directory with a name that is short always: a task's socket of Nomad's API is below it, and has a path of at most
// 107 bytes. Tasks of other users walk through it.
func newShortDir() (path string, err error) {
	for {
		path = filepath.Join(os.TempDir(), fmt.Sprintf("%s%05x", workDirPrefix, rand.N(1<<20)))
		if err = os.Mkdir(path, 0o755); err == nil { // whatever the umask
			return path, os.Chmod(path, 0o755)
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
}

func (d *workDir) join(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

// mkdir makes a directory below the work directory.
func (d *workDir) mkdir(elem ...string) (string, error) {
	path := d.join(elem...)
	return path, os.MkdirAll(path, 0o755)
}

// tmpfs mounts one below the work directory.
func (d *workDir) tmpfs(elem ...string) (string, error) {
	path, err := d.mkdir(elem...)
	if err != nil {
		return "", err
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,size=256m"); err != nil {
		return "", fmt.Errorf("mount a tmpfs at %s: %w", path, err)
	}
	return path, nil
}

func (d *workDir) remove() error {
	err := errors.Join(wipe(d.path), removeFromDocker(filepath.Base(d.path)))
	os.Remove(d.lock.Name())
	d.lock.Close()
	return err
}

// sweepAbandoned clears what killed runs left. It is best effort: the next one tries again.
func sweepAbandoned() {
	locks, _ := filepath.Glob(filepath.Join(os.TempDir(), workDirPrefix+"*.lock"))
	for _, name := range locks {
		lock, err := os.Open(name)
		if err != nil {
			continue
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			dir := strings.TrimSuffix(name, ".lock")
			if wipe(dir) == nil && removeFromDocker(filepath.Base(dir)) == nil {
				os.Remove(name)
			}
		}
		lock.Close()
	}
}

// removeFromDocker removes what a run has made in the machine's engine, its containers aside.
func removeFromDocker(run string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(removeNetworks(ctx, run), removeImages(ctx, run))
}

// wipe ends everything that lives in or from dir (servers, plugins, executors, raw_exec tasks,
// containers), unmounts what is mounted below it, and removes it.
func wipe(dir string) error {
	killProcessesOf(dir)
	if err := removeContainersOf(dir); err != nil {
		return err
	}
	if err := unmountBelow(dir); err != nil {
		return err
	}
	if left, err := mountsBelow(dir); err != nil || len(left) > 0 {
		return errors.Join(fmt.Errorf("mounts are left: %q", left), err)
	}
	return os.RemoveAll(dir)
}

// killProcessesOf kills the processes whose program, arguments or environment are below dir, until
// there are none: an executor may start its task while we look.
func killProcessesOf(dir string) {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		pids := processesOf(dir)
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func processesOf(dir string) []int {
	var found []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		proc := filepath.Join("/proc", e.Name())
		exe, _ := os.Readlink(filepath.Join(proc, "exe"))
		args, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
		env, _ := os.ReadFile(filepath.Join(proc, "environ"))
		needle := []byte(dir + "/")
		if strings.HasPrefix(exe, dir+"/") || bytes.Contains(args, needle) || bytes.Contains(env, needle) {
			if !isZombie(pid) {
				found = append(found, pid)
			}
		}
	}
	return found
}

func isZombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z")
}

// removeContainersOf removes the containers of the allocations in dir: a task's by the alloc
// directory bound into it, a group's pause container by its label.
func removeContainersOf(dir string) error {
	docker, err := dockerClient()
	if err != nil {
		return err
	}
	defer docker.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	list, err := docker.ContainerList(ctx, container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", allocIDLabel)),
	})
	if err != nil {
		return err
	}
	allocs := allocIDsIn(dir)
	for _, c := range list {
		ours := slices.Contains(allocs, c.Labels[allocIDLabel])
		for _, m := range c.Mounts {
			ours = ours || strings.HasPrefix(m.Source, dir+"/")
		}
		if !ours {
			continue
		}
		if err := docker.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true}); err != nil {
			return fmt.Errorf("remove container %s: %w", c.Names, err)
		}
	}
	return nil
}

// allocIDsIn looks into dir as the directory of an agent, and as that of a cluster.
func allocIDsIn(dir string) []string {
	var ids []string
	for _, agents := range []string{dir, filepath.Join(dir, "nomad-*")} {
		paths, _ := filepath.Glob(filepath.Join(agents, "data", "alloc", "*"))
		for _, p := range paths {
			ids = append(ids, filepath.Base(p))
		}
	}
	return ids
}

// unmountBelow detaches every mount below dir, the innermost first.
func unmountBelow(dir string) error {
	points, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

func mountsBelow(dir string) ([]string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(info)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(fields[4]))
		}
	}
	return points, nil
}
