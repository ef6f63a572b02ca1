package taskdir

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Give gives the files of the set that was last published to uid and gid, but for those with an owner of their own. They
// stay the files that they are: who has bound one has it yet.
func (p *Publisher) Give(set *secrets.Set, uid, gid int) error {
	if err := p.give(set, uid, gid); err != nil {
		return fmt.Errorf("give files to user %d: %w", uid, err)
	}
	return nil
}

func (p *Publisher) give(set *secrets.Set, uid, gid int) error {
	if len(files(set)) == 0 {
		return nil
	}
	now, err := p.state()
	if err != nil {
		return err
	}
	if now.current == "" {
		return errors.New("nothing is published")
	}
	dir, err := p.root.OpenRoot(now.current)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := onlyOurs(dir); err != nil { // its name may have been taken since
		return fmt.Errorf("open the set: %w", err)
	}
	for _, f := range set.Files {
		if f.Link != "" {
			continue
		}
		if err := giveFile(dir, f.Path, orElse(f.UID, uid), orElse(f.GID, gid)); err != nil {
			return fmt.Errorf("file %q: %w", f.Path, err)
		}
	}
	return nil
}

func giveFile(dir *os.Root, name string, uid, gid int) error {
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Chown(uid, gid)
}
