package taskdir

import (
	"bytes"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir/beneath"
)

const (
	// maxLooked bounds the names of one directory that are looked at, and maxRead the files that are read, when an identity is looked
	// for. A task can fill these directories.
	maxLooked = 256
	maxRead   = 16
)

// Identity is a JWT below a task's directory.
type Identity struct {
	File     string // below the task directory
	Audience []string
}

// Identities finds JWTs where jobs have Nomad write them: to explain why there is none where one is looked for. What they say is
// believed for that alone: a task can write to all of these directories but private.
func Identities(taskDir string, owners ...int) (found []Identity) {
	left := maxRead
	for _, sub := range []string{privateDir, "secrets", ".", "local"} {
		found = append(found, identitiesIn(taskDir, sub, &left, owners)...)
	}
	return found
}

// identitiesIn are the JWTs in one directory; left is how many files may still be read.
func identitiesIn(taskDir, sub string, left *int, owners []int) (found []Identity) {
	dir, err := beneath.OpenIn(taskDir, sub, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(maxLooked) // those before an error are good
	slices.Sort(names)
	for _, name := range names {
		if sub != privateDir && !strings.HasSuffix(name, ".jwt") {
			continue
		}
		if *left == 0 {
			break
		}
		*left--
		content, err := readRegular(dir, name, owners)
		if err != nil {
			continue
		}
		if audience, ok := secrets.JWTAudience(content); ok {
			found = append(found, Identity{path.Join(sub, name), audience})
		}
	}
	return found
}

// readRegular reads a file that may be anything.
func readRegular(dir *os.File, name string, owners []int) (secrets.Value, error) {
	file, err := beneath.Open(dir, name, unix.O_PATH)
	if err != nil {
		return secrets.Value{}, err
	}
	defer file.Close()
	same, err := openRegular(file, owners)
	if err != nil {
		return secrets.Value{}, err
	}
	defer same.Close()
	content, err := io.ReadAll(io.LimitReader(same, maxPrivate))
	return secrets.NewValue(bytes.TrimSpace(content)), err
}
