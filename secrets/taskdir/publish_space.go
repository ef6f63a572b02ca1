package taskdir

import (
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// checkSpace upholds S5's limit before anything is written. Where the room is short, the previous set goes
// before its time.
func (p *Publisher) checkSpace(set *secrets.Set, st *published) error {
	var fsys unix.Statfs_t
	dir, err := p.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	statfs := func() error {
		if err := unix.Fstatfs(int(dir.Fd()), &fsys); err != nil {
			return fmt.Errorf("space in the secrets directory: %w", err)
		}
		return nil
	}
	if err := statfs(); err != nil {
		return err
	}
	if fsys.Blocks == 0 { // a tmpfs without a limit
		return nil
	}
	block := uint64(fsys.Bsize)
	need, total := setBlocks(set, block)*block, fsys.Blocks*block
	if err := checkShare(set, &fsys); err != nil {
		return err
	}
	if need > fsys.Bavail*block && st.previous != "" {
		if err := p.discard(st.previous); err != nil {
			return err
		}
		st.previous = ""
		if err := statfs(); err != nil {
			return err
		}
	}
	if need > fsys.Bavail*block {
		return fmt.Errorf("the files take %s and of the secrets directory's %s only %s are free; remove what else is in there, or set a larger secrets in the task's resources block",
			secrets.FormatSize(need), secrets.FormatSize(total), secrets.FormatSize(fsys.Bavail*block))
	}
	return nil
}

// Fits says why a set cannot be published, whatever room is left: it is too large for the secrets directory (S5), or
// something else has one of its names, of root's or of uid's (-1: whose process it will be is not known yet). Unlike the
// other methods it may be called beside them.
func (p *Publisher) Fits(set *secrets.Set, uid int) error {
	now, err := p.state()
	if err != nil {
		return err
	}
	if err := p.checkWay(topNames(set), now, uid); err != nil {
		return err
	}
	dir, err := p.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	var fsys unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fsys); err != nil {
		return fmt.Errorf("space in the secrets directory: %w", err)
	}
	return checkShare(set, &fsys)
}

// checkShare upholds S5's limit.
func checkShare(set *secrets.Set, fsys *unix.Statfs_t) error {
	block := uint64(fsys.Bsize)
	need, total := setBlocks(set, block)*block, fsys.Blocks*block
	if total == 0 || need <= total*maxShare/100 { // a tmpfs may be without a limit
		return nil
	}
	return fmt.Errorf("the files take %s and the secrets directory has %s, of which one set may take %d%% (a rotation holds two); set secrets = %d or more in the task's resources block",
		secrets.FormatSize(need), secrets.FormatSize(total), maxShare, (need*100/maxShare)>>20+1)
}

// setBlocks is what a set takes on disk: whole blocks for each file, and one for each directory, which is
// what file systems other than tmpfs need.
func setBlocks(set *secrets.Set, block uint64) uint64 {
	n := uint64(1)
	dirs := map[string]bool{".": true}
	for _, f := range files(set) {
		n += (uint64(f.Data.Len()) + block - 1) / block
		for d := path.Dir(f.Path); !dirs[d]; d = path.Dir(d) {
			dirs[d] = true
			n++
		}
	}
	return n
}
