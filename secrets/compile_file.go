package secrets

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// ReservedPrefix begins the names in the secrets directory that are this project's own: no file of a
// job may begin with it at the top, so what keeps such a name is safe from jobs.
const ReservedPrefix = ".."

// MaxDirs is how deep below the secrets directory a file may be. What removes a set goes no deeper.
const MaxDirs = 16

func (k *compiler) file(place, p string, c *FileConfig) File {
	f := File{Path: p, Field: c.Field, Template: c.Template, Perms: DefaultPerms, UID: c.UID, GID: c.GID}
	if err := CheckFilePath(p); err != nil {
		k.badf(place, "%v", err)
	} else if err := k.files.addFile(p, place); err != nil {
		k.badf(place, "%v", err)
	}
	switch {
	case c.Field == "" && c.Template == "":
		k.badf(place, "neither field nor template is given; give one of them")
	case c.Field != "" && c.Template != "":
		k.badf(place, "field and template are both given; give one of them")
	case c.Template != "":
		if err := k.templates.check(c.Template); err != nil {
			k.badf(place, "%v", err)
		}
	}
	k.fieldPath(place, c.Field)
	if c.Perms != "" {
		n, err := strconv.ParseUint(c.Perms, 8, 32)
		if err != nil || n > 0o777 {
			k.badf(place, `perms %q are not valid; use octal digits up to 0777, such as "0440"`, c.Perms)
		} else {
			f.Perms = fs.FileMode(n)
		}
	}
	k.owner(place, "uid", c.UID)
	k.owner(place, "gid", c.GID)
	switch c.Decode {
	case "":
	case "base64":
		f.Base64 = true
		if c.Template != "" {
			k.badf(place, "decode is for a field; in a template use the function b64dec")
		}
	default:
		k.badf(place, "decode %q is not known; use base64", c.Decode)
	}
	return f
}

// owner checks a uid or gid. The largest 32-bit number means "leave as it is" to the kernel.
func (k *compiler) owner(place, key string, id *int) {
	if id != nil && (*id < 0 || int64(*id) >= math.MaxUint32) {
		k.badf(place, "%s %d is not valid; use a number from 0 to %d", key, *id, math.MaxUint32-1)
	}
}

// CheckFilePath upholds S5 for the name of a file below the secrets directory.
func CheckFilePath(p string) error {
	if err := checkPath(p); err != nil {
		return fmt.Errorf("%w; use a path below the secrets directory, such as %q", err, "tls/cert.pem")
	}
	return Reserved(p)
}

func checkPath(p string) error {
	switch {
	case p == "":
		return errors.New("the path is empty")
	case strings.ContainsRune(p, 0):
		return errors.New("the path contains a NUL")
	case strings.HasPrefix(p, "/"):
		return errors.New("the path is absolute")
	case len(p) > 1024:
		return errors.New("the path is longer than 1024 bytes")
	}
	if strings.Count(p, "/") > MaxDirs {
		return fmt.Errorf("the path is more than %d directories deep", MaxDirs)
	}
	for s := range strings.SplitSeq(p, "/") {
		if s == ".." {
			return errors.New(`the path contains ".."`)
		}
		if len(s) > 255 {
			return errors.New("a name in the path is longer than 255 bytes")
		}
	}
	if p == "." || path.Clean(p) != p {
		return errors.New("the path is not in its shortest form")
	}
	return nil
}

// Reserved says whether the top of a path is a name that Nomad or the publisher keeps.
func Reserved(p string) error {
	top, _, _ := strings.Cut(p, "/")
	switch {
	case strings.HasPrefix(top, ReservedPrefix):
		return fmt.Errorf("names that begin with %q are kept for the driver's own files; use another", ReservedPrefix)
	case top == "vault_token", top == "api.sock",
		strings.HasPrefix(top, "nomad_token"),
		strings.HasPrefix(top, "nomad_") && strings.HasSuffix(top, ".jwt"):
		return fmt.Errorf("%q is a file that Nomad keeps in the secrets directory; use another name", top)
	}
	return nil
}

// pathSet is the files that a task gets, so that no two are one file and none is another's directory.
type pathSet struct {
	files map[string]string // path → who asks for it
	dirs  map[string]string // every directory that a file needs → who asks for it
}

func newPathSet() *pathSet {
	return &pathSet{files: map[string]string{}, dirs: map[string]string{}}
}

func (s *pathSet) addFile(p, who string) error {
	if err := s.taken(p); err != nil {
		return err
	}
	if dir := path.Dir(p); dir != "." {
		if err := s.addDir(dir, who); err != nil {
			return err
		}
	}
	s.files[p] = who
	return nil
}

// taken says why p cannot be a file's.
func (s *pathSet) taken(p string) error {
	if other, ok := s.files[p]; ok {
		return fmt.Errorf("the file is written by %s too; give one of them another path", other)
	}
	if other, ok := s.dirs[p]; ok {
		return fmt.Errorf("the path is a directory for %s; give one of them another path", other)
	}
	return s.fileAbove(path.Dir(p))
}

func (s *pathSet) fileAbove(dir string) error {
	for d := dir; d != "."; d = path.Dir(d) {
		if other, ok := s.files[d]; ok {
			return fmt.Errorf("the directory %q is a file of %s; give one of them another path", d, other)
		}
	}
	return nil
}

func (s *pathSet) addDir(dir, who string) error {
	if err := s.fileAbove(dir); err != nil {
		return err
	}
	for d := dir; d != "."; d = path.Dir(d) {
		if _, ok := s.dirs[d]; !ok {
			s.dirs[d] = who
		}
	}
	return nil
}
