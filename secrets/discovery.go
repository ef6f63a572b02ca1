package secrets

import "strings"

// MaxDiscovered bounds the paths that globs of a token's policies are expanded to.
const MaxDiscovered = 100

// Discovery is what a token's policies let it read, as secrets.
type Discovery struct {
	Found   []Found
	Skipped []Skipped
	// Cut is set when the globs hold more than MaxDiscovered paths: the rest is not in Found.
	Cut bool
	// Granted are those of the paths asked about, and found before, that the policies still let the token read,
	// whether they are in Found or not: an engine may be unmounted for the moment.
	Granted map[string]bool
	// Mounts are the engines that the token sees, by path, which ends in a slash; true: KV version 2.
	Mounts map[string]bool
}

// Found is one secret that a policy grants.
type Found struct {
	Path string // the API's, as the policy has it
	// Exact is set where a policy names the path itself. Others were found below a pattern: there
	// whoever may write a key decides what there is.
	Exact bool
}

// Skipped is what a policy grants and a task does not get, and why.
type Skipped struct{ Path, Why string }

// canonical is the API's path of what a job declares.
func (d *Discovery) canonical(path string) string {
	path = strings.Join(Segments(path), "/")
	longest := ""
	for mount := range d.Mounts {
		if strings.HasPrefix(path, mount) && len(mount) > len(longest) {
			longest = mount
		}
	}
	if d.Mounts[longest] {
		return DataPath(longest, path)
	}
	return path
}

// DataPath maps a path as typed at the CLI to the API's, on a KV version 2 mount. A path that says
// `data/` already is the API's: both are seen in the wild. A secret whose own name begins with
// `data/` is therefore reached as <mount>/data/data/… only.
func DataPath(mountPath, path string) string {
	rest := strings.TrimPrefix(path, mountPath)
	if strings.HasPrefix(rest, "data/") {
		return path
	}
	return mountPath + "data/" + rest
}
