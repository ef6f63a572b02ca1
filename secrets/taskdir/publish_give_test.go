package taskdir

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What was published as root's is given to the task's user later, and stays the same files: a container may have bound
// them by then.
func TestGive(t *testing.T) {
	dir := t.TempDir()
	p, err := OpenPublisher(dir)
	must.NoError(t, err)
	defer p.Close()
	root := 0
	set := &secrets.Set{Files: []secrets.RenderedFile{
		{Path: "app.conf", Data: secrets.TextValue("x"), Perms: 0o400},
		{Path: "roots", Data: secrets.TextValue("y"), Perms: 0o440, UID: &root},
		{Path: "tls/key.pem", Data: secrets.TextValue("z"), Perms: 0o400},
	}}
	must.ErrorContains(t, p.Give(set, taskUser, taskUser), "nothing is published")
	must.NoError(t, p.Give(&secrets.Set{}, taskUser, taskUser), must.Sprint("there is nothing to give"))
	must.NoError(t, p.Publish(set, NoOwner, NoOwner))
	stat := func(name string) *syscall.Stat_t {
		info, err := os.Stat(filepath.Join(dir, name))
		must.NoError(t, err)
		return info.Sys().(*syscall.Stat_t)
	}
	before := map[string]uint64{}
	for _, f := range set.Files {
		st := stat(f.Path)
		must.EqOp(t, 0, st.Uid, must.Sprint(f.Path))
		before[f.Path] = st.Ino
	}
	must.NoError(t, p.Give(set, taskUser, taskUser+1))
	for name, want := range map[string]struct{ uid, gid, mode uint32 }{
		"app.conf": {taskUser, taskUser + 1, 0o400}, "roots": {0, taskUser + 1, 0o440}, "tls/key.pem": {taskUser, taskUser + 1, 0o400},
	} {
		st := stat(name)
		must.EqOp(t, before[name], st.Ino, must.Sprint(name))
		must.EqOp(t, want.uid, st.Uid, must.Sprint(name))
		must.EqOp(t, want.gid, st.Gid, must.Sprint(name))
		must.EqOp(t, want.mode, st.Mode&0o7777, must.Sprint(name))
	}
	must.EqOp(t, 0, stat("tls").Uid)

	// Where the container's root has put something else in the set's place, nothing is given.
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	must.NoError(t, err)
	must.NoError(t, os.RemoveAll(filepath.Join(dir, current)))
	must.NoError(t, os.Mkdir(filepath.Join(dir, current), 0o777))
	must.NoError(t, os.Chmod(filepath.Join(dir, current), 0o777))
	must.ErrorContains(t, p.Give(set, taskUser, taskUser), "nothing is published")
}
