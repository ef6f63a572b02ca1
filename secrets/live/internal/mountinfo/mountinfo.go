// Package mountinfo reads /proc/<pid>/mountinfo: what is mounted where, in every mount namespace.
//
// A bind mount of one directory of a file system is told from one of another by its device and its root, the path
// within that file system. So who uses a live directory is seen without asking anybody.
package mountinfo

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is one line.
type Mount struct {
	Device string // major:minor
	Root   string // within the file system
	Point  string // as the process sees it
	Type   string
	Shared bool // what is mounted in it is seen by its peers and slaves
}

// Self is what is mounted in this process's namespace, in the order of mounting.
func Self() ([]Mount, error) { return read("/proc/self/mountinfo") }

func read(path string) ([]Mount, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parse(f)
}

func parse(r io.Reader) ([]Mount, error) {
	var mounts []Mount
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		m, err := parseLine(lines.Text())
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, m)
	}
	return mounts, lines.Err()
}

// parseLine: see proc_pid_mountinfo(5). The optional fields end with a dash.
func parseLine(line string) (Mount, error) {
	f := strings.Fields(line)
	if len(f) < 8 {
		return Mount{}, fmt.Errorf("mountinfo: a line of %d fields", len(f))
	}
	m := Mount{Device: f[2], Root: unescape(f[3]), Point: unescape(f[4])}
	for i, opt := range f[6:] {
		if strings.HasPrefix(opt, "shared:") {
			m.Shared = true
		}
		if opt == "-" {
			if 6+i+1 < len(f) {
				m.Type = f[6+i+1]
			}
			break
		}
	}
	return m, nil
}

// unescape undoes the octal escapes of white space and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Top is what is mounted at point last, in this process's namespace.
func Top(point string) (m Mount, ok bool, err error) {
	mounts, err := Self()
	m, ok = TopOf(mounts, point)
	return m, ok, err
}

// TopOf is what of these was mounted at point last.
func TopOf(mounts []Mount, point string) (m Mount, ok bool) {
	for _, each := range mounts {
		if each.Point == point {
			m, ok = each, true
		}
	}
	return m, ok
}

// Within reports whether a mount shows root, a path within its file system, or what is below that.
func (m Mount) Within(root string) bool {
	return m.Root == root || strings.HasPrefix(m.Root, root+"/")
}

// Each calls f with every mount of every mount namespace that some process is in. Whoever is not called with a mount takes it
// for unused, so what cannot be read is an error, unless the process has ended.
// It works without capabilities: then a namespace is read once for each of its processes.
func Each(f func(Mount)) error { return each("/proc", f) }

func each(proc string, f func(Mount)) error {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, e := range entries {
		if c := e.Name()[0]; c < '0' || c > '9' {
			continue
		}
		process := filepath.Join(proc, e.Name())
		ns, nsErr := os.Readlink(process + "/ns/mnt")
		if nsErr == nil && seen[ns] {
			continue
		}
		mounts, err := read(process + "/mountinfo")
		if ended(err) { // another process of the same namespace may be there
			continue
		}
		if err != nil {
			return err
		}
		// A process that has left for another namespace meanwhile may have given the mounts of that one.
		if after, err := os.Readlink(process + "/ns/mnt"); nsErr == nil && err == nil && after == ns {
			seen[ns] = true
		}
		for _, m := range mounts {
			f(m)
		}
	}
	return nil
}

// ended is the error about a process that has ended, or is about to.
func ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL)
}
