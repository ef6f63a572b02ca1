package launcher

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// sticky is a secrets directory as secrets.OpenPublisher makes it.
func sticky(t testing.TB) string {
	dir := filepath.Join(executableDir(t), "secrets")
	must.NoError(t, os.Mkdir(dir, 0o777))
	must.NoError(t, os.Chmod(dir, 0o777|os.ModeSticky))
	return dir
}

// A container that a plugin without channels started has commands run in it by its own launcher.
func TestOlderLauncher(t *testing.T) {
	program := filepath.Join(executableDir(t), "launcher")
	must.NoError(t, os.WriteFile(program, olderLauncher(t), 0o755))
	dir := sticky(t)
	h, err := NewInSecrets(dir)
	must.NoError(t, err)
	cmd := exec.Command(program, h.Args(dir)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(app.UID), Gid: uint32(app.GID)}}
	released := make(chan error, 1)
	go func() {
		released <- h.Release(t.Context(), nil, app, Payload{
			Argv: []string{"/bin/busybox", "sh", "-c", "id -u; echo $SECRET"}, Env: []string{"SECRET=" + canary},
			Processes: &Limit{Soft: 1, Hard: 1}, // of which it knows nothing
		})
	}()
	out, err := cmd.Output()
	must.NoError(t, err)
	must.NoError(t, <-released)
	must.Eq(t, "1234\n"+canary+"\n", string(out))
	empty(t, dir)
}

// A launcher that looks for its FIFOs by name must not find another's: so the driver's stay until it has ended
// by itself.
func TestOlderLauncherIsGivenUp(t *testing.T) {
	dir := sticky(t)
	h, err := NewInSecrets(dir)
	must.NoError(t, err)
	h.bound = time.Second
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must.ErrorIs(t, h.Release(ctx, nil, app, Payload{Argv: []string{"true"}}), context.Canceled)
	h.Remove()
	for _, path := range h.fifos(dir) {
		var st unix.Stat_t
		must.NoError(t, unix.Lstat(path, &st))
		must.Eq(t, unix.S_IFIFO, st.Mode&unix.S_IFMT)
	}
	h.discard() // as the timer does
	empty(t, dir)
}

// The driver makes no FIFO where others could put theirs in its place.
func TestDirectoriesAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		mode  os.FileMode
		owner int
	}{
		"Nomad's":          {0o777, 0},
		"another user's":   {0o700, 1234},
		"others may write": {0o722, 0},
	} {
		dir := filepath.Join(executableDir(t), "dir")
		must.NoError(t, os.Mkdir(dir, 0o700))
		must.NoError(t, os.Chmod(dir, c.mode))
		must.NoError(t, os.Chown(dir, c.owner, -1))
		_, err := New(dir)
		must.ErrorContains(t, err, "users other than root can write to it", must.Sprint(name))
		_, err = NewInSecrets(dir)
		must.ErrorContains(t, err, "users other than root can replace what is in it", must.Sprint(name))
		empty(t, dir)
		link := dir + "-link"
		must.NoError(t, os.Symlink(testChannel(t).Path(), link))
		_, err = New(link)
		must.Error(t, err)
	}
}
