package secrets

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// liveTaken are directories of a container that are not a secret's to cover, nor is what is below them.
var liveTaken = []string{"/proc", "/sys", "/dev", "/alloc", "/local", "/secrets"}

// minLiveStale leaves room for a look at the server that failed once.
const minLiveStale = 5 * time.Second

// live checks a secret's live directory. Whether its path is one for the task's driver is CheckLiveDirs's to say.
func (k *compiler) live(place string, c *SecretConfig) *LiveDir {
	if c.LiveDir == "" {
		for key, given := range map[string]bool{"live_listing": c.LiveListing, "live_stale": c.LiveStale != ""} {
			if given {
				k.badf(place, "%s is for a live_dir, and there is none; give the directory's path, or take it out", key)
			}
		}
		return nil
	}
	l := &LiveDir{Path: c.LiveDir, Listing: c.LiveListing, Stale: k.duration(place, "live_stale", c.LiveStale, DefaultLiveStale)}
	if l.Stale < minLiveStale {
		k.badf(place, "live_stale %q is too short; the least is %v", c.LiveStale, minLiveStale)
	}
	if err := k.liveDir(place, c.LiveDir); err != nil {
		k.badf(place, "live_dir %q: %v", c.LiveDir, err)
	}
	return l
}

func (k *compiler) liveDir(place, p string) error {
	if !path.IsAbs(p) {
		if err := CheckFilePath(p); err != nil {
			return err
		}
		return k.files.addFile(p, place)
	}
	switch {
	case strings.ContainsRune(p, 0):
		return fmt.Errorf("the path contains a NUL; use one such as %q", "/run/app")
	case len(p) > maxPath:
		return fmt.Errorf("the path is longer than %d bytes; use a shorter one", maxPath)
	case path.Clean(p) != p:
		return fmt.Errorf("the path is not in its shortest form; write it as %q", path.Clean(p))
	case p == "/":
		return fmt.Errorf("it would cover the whole container; use a directory of its own, such as %q", "/run/app")
	case strings.Contains(p, ":"):
		return fmt.Errorf("the path contains a colon, which Docker has another use for; use one such as %q", "/run/app")
	}
	for _, taken := range liveTaken {
		if within(p, taken) {
			return fmt.Errorf("%s is not a secret's to cover; use a directory of its own, such as %q", taken, "/run/app")
		}
	}
	for other, who := range k.liveDirs {
		if within(p, other) || within(other, p) {
			return fmt.Errorf("it is, or is within, the live_dir of %s, or the other way round; use directories side by side", who)
		}
	}
	k.liveDirs[p] = place
	return nil
}

// within reports whether p is a directory or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// CheckLiveDirs refuses live directories that a task of the driver cannot have: one in a container has an absolute
// path, one on the host is below the secrets directory.
func (s *Spec) CheckLiveDirs(inContainer bool) error {
	var found problems
	for _, sec := range s.Secrets {
		switch {
		case sec.Live == nil || path.IsAbs(sec.Live.Path) == inContainer:
		case inContainer:
			found.add(newProblem(placeOf(sec), fmt.Sprintf("live_dir %q: not an absolute path; with this driver it is a directory in the container, such as %q", sec.Live.Path, "/run/app")))
		default:
			found.add(newProblem(placeOf(sec), fmt.Sprintf("live_dir %q: an absolute path; with this driver it is a path below the secrets directory, such as %q", sec.Live.Path, "live/app")))
		}
	}
	if err := found.join(); err != nil {
		return &Error{Kind: Invalid, Err: err}
	}
	return nil
}

// HasLive reports whether a secret of the task has a live directory.
func (s *Spec) HasLive() bool {
	return slices.ContainsFunc(s.Secrets, func(sec Secret) bool { return sec.Live != nil })
}

// onlyLive finds the secrets that the task reads in their live directory alone. Nothing is done for a change of such a
// one, since the directory has what is new, unless the job says of this very secret what to do. Then that is for a change of
// any of its fields, for the directory has all of them.
func (k *compiler) onlyLive(spec *Spec, c TaskConfig) {
	for i := range spec.Secrets {
		s := &spec.Secrets[i]
		s.LiveOnly = s.Live != nil && !s.rendered() && !spec.namedInFiles(s.Name)
		own := c.Secrets[s.Name].ChangeMode != ""
		if s.LiveOnly && !own {
			s.Change.Mode = Noop
		}
		if s.Live != nil {
			s.Live.Acts = own
		}
	}
}

// namedInFiles reports whether a file over several secrets may make use of this one.
func (s *Spec) namedInFiles(secret string) bool {
	return slices.ContainsFunc(s.Files, func(f File) bool { return strings.Contains(f.Template, secret) })
}

// rendered reports whether the secret's own block makes variables or files.
func (s *Secret) rendered() bool {
	return len(s.Env) > 0 || s.EnvPrefix != nil || len(s.Files) > 0 || s.AllFiles
}
