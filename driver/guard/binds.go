package guard

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Bind is one bind mount that a job asks for, in the words of the Docker engine's API.
type Bind struct {
	Source      string // absolute, and clean
	Target      string
	ReadOnly    bool
	Propagation string // as in Nomad's volume_mount: "", private or host-to-task
	Relabel     bool   // for SELinux
	Create      bool   // make a missing source, as the engine does
}

// ErrSyntax is of what the wrapped driver refuses by itself, in its own words.
var ErrSyntax = errors.New("not <src>:<destination>")

// Volume reads an element of the job's `volumes`. label is the operator's selinuxlabel.
func Volume(taskDir, spec, label string) (Bind, error) {
	parts := strings.Split(spec, ":")
	if len(parts) < 2 {
		return Bind{}, fmt.Errorf("volume %q: %w", spec, ErrSyntax)
	}
	b := Bind{Source: absolute(taskDir, parts[0]), Target: parts[1], Relabel: label != "", Create: true}
	if len(parts) == 2 || parts[2] == "" {
		return b, nil
	}
	for option := range strings.SplitSeq(parts[2], ",") {
		switch option {
		case "rw", "consistent", "cached", "delegated":
		case "ro":
			b.ReadOnly = true
		case "z", "Z": // one container's own label is known only to the engine: it becomes all containers'
			b.Relabel = true
		default:
			propagation, err := propagationOf(option)
			if err != nil {
				return Bind{}, fmt.Errorf("volume %q: %w", spec, err)
			}
			b.Propagation = propagation
		}
	}
	return b, nil
}

// Mount reads a `mount` block of type bind.
func Mount(taskDir, source, target string, readOnly bool, propagation string) (Bind, error) {
	p, err := propagationOf(propagation)
	if err != nil {
		return Bind{}, fmt.Errorf("mount at %s: %w", target, err)
	}
	return Bind{Source: absolute(taskDir, source), Target: target, ReadOnly: readOnly, Propagation: p}, nil
}

func propagationOf(option string) (string, error) {
	switch option {
	case "":
		return "", nil
	case "private", "rprivate":
		return "private", nil
	case "slave", "rslave":
		return "host-to-task", nil
	case "shared", "rshared":
		return "", fmt.Errorf("propagation %q: what a container mounts is let out to the host only where the operator has volumes { enabled = true }", option)
	default:
		return "", fmt.Errorf("option %q is not known", option)
	}
}

// absolute is the wrapped driver's reading of a source.
func absolute(taskDir, source string) string {
	if filepath.IsAbs(source) {
		return filepath.Clean(source)
	}
	return filepath.Join(taskDir, source)
}

// Leaves reports whether a bind's source is outside by its name alone, which the wrapped driver refuses by
// itself.
func (b Bind) Leaves(allocDir string) bool {
	rel, err := filepath.Rel(allocDir, b.Source)
	return err != nil || strings.HasPrefix(rel, "..") // as the wrapped driver has it
}

// Logs says where an allocation's logs are in a source that was resolved to rel: in all of it, or below it at
// a path; "" is nowhere. A driver with a chroot, such as exec, mounts the allocation's alloc in its task's directory, too; an alloc
// of a task's own is nothing special.
func Logs(allocDir, rel string) (all bool, below string) {
	if task, in, _ := strings.Cut(rel, "/"); task != sharedDir && (in == sharedDir || strings.HasPrefix(in, sharedDir+"/")) &&
		isShared(allocDir, filepath.Join(task, sharedDir)) {
		rel = in
	}
	if rel == logDir || strings.HasPrefix(rel, logDir+"/") {
		return true, ""
	}
	if rel == "." {
		return false, logDir
	}
	if rest, ok := strings.CutPrefix(logDir, rel+"/"); ok {
		return false, rest
	}
	return false, ""
}

// isShared reports whether a directory of an allocation is the one that its tasks share, mounted there. What cannot be looked at may be.
func isShared(allocDir, rel string) bool {
	var of [2]unix.Stat_t
	for i, rel := range []string{sharedDir, rel} {
		dir, err := openBelow(allocDir, rel)
		if err != nil {
			return true
		}
		err = unix.Fstat(int(dir.Fd()), &of[i])
		_ = dir.Close()
		if err != nil {
			return true
		}
	}
	return of[0].Dev == of[1].Dev && of[0].Ino == of[1].Ino
}

// SameTarget reports whether two paths are one in a container.
func SameTarget(a, b string) bool { return path.Clean("/"+a) == path.Clean("/"+b) }
