package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// DefaultStale is how long a volume's last values are served while nobody can look for newer ones.
const DefaultStale = time.Hour

// Options are what a volume was created with.
type Options struct {
	Path      string        `json:"path"`
	Namespace string        `json:"namespace,omitempty"`
	Version   int           `json:"version,omitempty"`
	UID       uint32        `json:"uid,omitempty"`
	GID       uint32        `json:"gid,omitempty"`
	Mode      fs.FileMode   `json:"mode"`
	Stale     time.Duration `json:"stale"`
	Listing   bool          `json:"listing,omitempty"`
}

func (o Options) request() secrets.Request {
	return secrets.Request{Namespace: o.Namespace, Path: o.Path, Version: o.Version}
}

// normalise is the one spelling of a volume's name. Docker's API cleans its URLs, and so says secret/app where the
// command said secret/app/.
func normalise(name string) (string, error) {
	switch {
	case strings.ContainsFunc(name, unicode.IsControl), strings.TrimSpace(name) != name:
		return "", fmt.Errorf("volume %q: control characters, or white space around the name", name)
	case slices.Contains(strings.Split(name, "/"), ".."):
		return "", fmt.Errorf("volume %q: \"..\" is not allowed; write the path in full", name)
	case len(name) > 1024:
		return "", fmt.Errorf("volume %.40q…: the name is longer than 1024 bytes", name)
	}
	clean := strings.Trim(path.Clean("/"+name), "/")
	if clean == "" {
		return "", errors.New("a volume's name is the path of a secret, such as secret/app-1, or any name with the option path")
	}
	return clean, nil
}

// parseOptions reads what `docker volume create -o` was given for a volume of this (normalised) name.
func parseOptions(name string, opts map[string]string) (Options, error) {
	o := Options{Path: name, Stale: DefaultStale}
	mode := ""
	for key, value := range opts {
		var err error
		switch key {
		case "path":
			o.Path, err = normalise(value)
		case "namespace":
			o.Namespace = strings.Trim(value, "/")
		case "version":
			o.Version, err = strconv.Atoi(value)
			if err == nil && o.Version < 1 {
				err = errors.New("not a version of a secret")
			}
		case "uid":
			o.UID, err = parseID(value)
		case "gid":
			o.GID, err = parseID(value)
		case "mode":
			mode = value
		case "stale":
			o.Stale, err = time.ParseDuration(value)
			if err == nil && (o.Stale < 10*time.Second || o.Stale > 30*24*time.Hour) {
				err = errors.New("between 10s and 720h")
			}
		case "listing":
			o.Listing, err = strconv.ParseBool(value)
		default:
			return Options{}, fmt.Errorf("volume %s: unknown option %q: there are path, namespace, version, uid, gid, mode, stale, listing", name, key)
		}
		if err != nil {
			return Options{}, fmt.Errorf("volume %s: option %s=%q: %w", name, key, value, err)
		}
	}
	// Docker does not say who will read. The directory above is root's alone, so that everybody is everybody in a
	// container that has the volume.
	o.Mode = 0o444
	if _, ok := opts["uid"]; ok {
		o.Mode = 0o400
	}
	if mode != "" {
		n, err := strconv.ParseUint(mode, 8, 32)
		if err != nil || n == 0 || n&^0o444 != 0 {
			return Options{}, fmt.Errorf("volume %s: option mode=%q: read permissions in octal, such as 0400 or 0440", name, mode)
		}
		o.Mode = fs.FileMode(n)
	}
	return o, nil
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == math.MaxUint32 {
		err = errors.New("is no id")
	}
	return uint32(n), err
}

// Allow is the list of paths that volumes may have, as the operator wrote it.
type Allow []string

// ParseAllow checks patterns. They are written as in a Vault policy: "+" is one element, "*" at the end is anything. A path of
// another namespace is written with that in front.
func ParseAllow(patterns []string) (Allow, error) {
	for _, p := range patterns {
		if i := strings.IndexByte(p, '*'); i >= 0 && i != len(p)-1 {
			return nil, fmt.Errorf("-allow %q: a * may stand at the end only", p)
		}
		if strings.Trim(p, "/") == "" {
			return nil, fmt.Errorf("-allow %q: the path of a secret is missing", p)
		}
	}
	if len(patterns) == 0 {
		return nil, errors.New("no -allow: name the secrets that containers may have, such as -allow 'secret/app-*'")
	}
	return patterns, nil
}

// Check says which option would allow a path that is not.
func (a Allow) Check(o Options) error {
	full := o.Path
	if o.Namespace != "" {
		full = o.Namespace + "/" + o.Path
	}
	for _, p := range a {
		if matches(strings.Trim(p, "/"), full) {
			return nil
		}
	}
	return fmt.Errorf("%s is not allowed on this node: start the volume driver with -allow %s, too", full, full)
}

func matches(pattern, path string) bool {
	prefix, any := strings.CutSuffix(pattern, "*")
	want, have := strings.Split(prefix, "/"), strings.Split(path, "/")
	if len(have) < len(want) || !any && len(have) > len(want) {
		return false
	}
	for i, w := range want {
		last := any && i == len(want)-1
		if w == "+" || w == have[i] || last && strings.HasPrefix(have[i], w) {
			continue
		}
		return false
	}
	return true
}
