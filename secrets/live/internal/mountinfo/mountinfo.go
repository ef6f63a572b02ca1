// Package mountinfo reads /proc/<pid>/mountinfo: what is mounted where, in every mount namespace.
//
// A bind mount of one directory of a file system is told from one of another by its device and its root, the path
// within that file system. So who uses a live directory is seen without asking anybody.
package mountinfo

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	for _, each := range mounts {
		if each.Point == point {
			m, ok = each, true
		}
	}
	return m, ok, err
}

// Each calls f with every mount of every mount namespace that some process is in. A process that ends meanwhile is none.
// It works without capabilities: then a namespace is read once for each of its processes.
func Each(f func(Mount)) error {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, proc := range procs {
		if ns, err := os.Readlink(proc + "/ns/mnt"); err == nil {
			if seen[ns] {
				continue
			}
			seen[ns] = true
		}
		mounts, err := read(proc + "/mountinfo")
		if err != nil {
			continue // gone, or a kernel thread's
		}
		for _, m := range mounts {
			f(m)
		}
	}
	return nil
}
