package launcher

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// L1: the launcher runs nothing that did not come by a FIFO that the driver has given to its user, in a
// directory where nobody else can put any.
func TestLauncherLooks(t *testing.T) {
	uid := app.UID
	path, err := install(executableDir(t))
	must.NoError(t, err)
	fifo := func(path string, mode uint32, owner int) error {
		return errors.Join(unix.Mkfifo(path, mode), os.Chmod(path, os.FileMode(mode)), os.Chown(path, owner, -1))
	}
	for name, c := range map[string]struct {
		spoil func(dir string) error
		says  string
	}{
		"no channel":        {func(dir string) error { return os.Remove(dir) }, "the channel to the driver"},
		"a link":            {func(dir string) error { return errors.Join(os.Rename(dir, dir+"-real"), os.Symlink(dir+"-real", dir)) }, "not a directory"},
		"all may write":     {func(dir string) error { return os.Chmod(dir, 0o777|os.ModeSticky) }, "others may write to it"},
		"a group may write": {func(dir string) error { return os.Chmod(dir, 0o731) }, "others may write to it"},
		"its own directory": {func(dir string) error { return os.Chown(dir, uid, -1) }, "this user may write to it"},
		"no FIFO":           {func(string) error { return nil }, "the driver gave up this start"},
		"a file": {func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/x-out", nil, 0o666), os.Chown(dir+"/x-out", uid, -1))
		}, "the FIFO x-out: it is none"},
		"a link to a FIFO": {func(dir string) error { return errors.Join(fifo(dir+"/y", 0o666, uid), os.Symlink("y", dir+"/x-out")) }, "the FIFO x-out: too many levels of symbolic links"},
		"two names": {func(dir string) error {
			return errors.Join(fifo(dir+"/x-out", 0o666, uid), os.Link(dir+"/x-out", dir+"/y"))
		}, "the FIFO x-out: it has another name elsewhere"},
		"another user's": {func(dir string) error { return fifo(dir+"/x-out", 0o666, 4242) }, "gave no command within 1 seconds"},
		"root's":         {func(dir string) error { return fifo(dir+"/x-out", 0o666, 0) }, "gave no command within 1 seconds"},
		"another user's input": {func(dir string) error {
			return errors.Join(fifo(dir+"/x-out", 0o600, uid), fifo(dir+"/x-in", 0o666, 4242))
		}, "gave no command within 1 seconds"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testChannel(t).Path()
			must.NoError(t, c.spoil(dir))
			if out, err := os.OpenFile(dir+"/x-out", os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0); err == nil {
				defer out.Close()
			}
			cmd := exec.Command(path, dir, "x", "1")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(app.UID), Gid: uint32(app.GID)}}
			said, err := cmd.CombinedOutput()
			must.Error(t, err)
			must.Eq(t, notFound, cmd.ProcessState.ExitCode())
			must.StrContains(t, string(said), c.says)
		})
	}
}

func TestChannelNames(t *testing.T) {
	const id = "f0a1b2c3-0000-1111-2222-333344445555"
	must.Eq(t, id+"-web", channelName(id, "web"))
	must.Eq(t, id+"-a.b_c-1", channelName(id, "a.b_c-1"))
	names := map[string]bool{}
	for _, c := range [][2]string{
		{id, "web"}, {id, "web/.."}, {id, "../web"}, {id, ".."}, {id, "."}, {id, ".web"}, {id, ""}, {id, "a b"}, {id, "ä"}, {id, "~"},
		{"", id + "-web"}, {"..", "web"}, {"a-b", "c"}, {"a", "b-c"}, {"a b", "c"}, {"a", "b c"}, {id + "-web", ""},
		{id, strings.Repeat("x", 128)}, {id, strings.Repeat("x", 129)}, {id, strings.Repeat("x", 3000)}, {id + "-", "web"},
	} {
		name := channelName(c[0], c[1])
		must.False(t, names[name], must.Sprint(c))
		names[name] = true
		must.Eq(t, filepath.Base(name), name)
		must.True(t, filepath.IsLocal(name))
		must.LessEq(t, 255, len(name))
		must.StrNotHasPrefix(t, ".", name)
	}
}

// A channel is made anew for each container, whatever is there; for a command, only if it is not there.
func TestChannelIsMade(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	c := testChannel(t)
	isOurs := func() {
		t.Helper()
		var st unix.Stat_t
		must.NoError(t, unix.Lstat(c.Path(), &st))
		must.Eq(t, unix.S_IFDIR|uint32(channelMode), st.Mode)
		must.Eq(t, Owner{}, Owner{int(st.Uid), int(st.Gid)})
	}
	isOurs()
	must.NoError(t, os.MkdirAll(filepath.Join(c.Path(), "a", "b"), 0o700))
	must.NoError(t, os.Chmod(c.Path(), 0o777))
	must.NoError(t, c.Ensure())
	isOurs()
	must.NoError(t, c.Make())
	isOurs()
	empty(t, c.Path())

	outside := t.TempDir()
	for name, put := range map[string]func() error{
		"a link":         func() error { return os.Symlink(outside, c.Path()) },
		"a file":         func() error { return os.WriteFile(c.Path(), nil, 0o600) },
		"another user's": func() error { return errors.Join(os.Mkdir(c.Path(), 0o711), os.Chown(c.Path(), 4242, -1)) },
	} {
		must.NoError(t, c.Remove())
		must.NoError(t, put())
		must.ErrorContains(t, c.Ensure(), "something else is in its place", must.Sprint(name))
		must.NoError(t, c.Make(), must.Sprint(name))
		isOurs()
	}
	empty(t, outside)
	must.NoError(t, c.Remove())
	must.NoError(t, c.Remove())
}

// A channel whose task nobody knows any more goes.
func TestSweepChannels(t *testing.T) {
	parent := t.TempDir()
	const id = "f0a1b2c3-0000-1111-2222-333344445555"
	for _, task := range []string{"there", "gone", "a b"} {
		c := ChannelOf(parent, id, task)
		must.NoError(t, c.Make())
		must.NoError(t, unix.Mkfifo(c.Path()+"/x-in", 0o400))
	}
	must.NoError(t, SweepChannels(parent, func(allocID, task string) bool {
		must.Eq(t, id, allocID)
		return task == "there"
	}))
	left, err := os.ReadDir(parent)
	must.NoError(t, err)
	must.Len(t, 2, left)
	must.Eq(t, id+"-there", left[0].Name())
	must.Eq(t, ChannelOf(parent, id, "a b").name, left[1].Name())
}

// The channels' file system has a number of files, for all tasks. When it is full, an error says so.
func TestNoRoom(t *testing.T) {
	parent := t.TempDir()
	must.NoError(t, unix.Mount("tmpfs", parent, "tmpfs", 0, "nr_inodes=4")) // one is its own
	t.Cleanup(func() { must.NoError(t, unix.Unmount(parent, unix.MNT_DETACH)) })
	a, b := ChannelOf(parent, "a", "a"), ChannelOf(parent, "b", "b")
	must.NoError(t, a.Make())
	h, err := New(a.Path())
	must.NoError(t, err)
	must.ErrorIs(t, b.Make(), ErrNoRoom)
	_, err = New(a.Path())
	must.ErrorIs(t, err, ErrNoRoom)
	h.Remove()
	must.NoError(t, b.Make())
	_, err = New(a.Path()) // one FIFO has room, and not both
	must.ErrorIs(t, err, ErrNoRoom)
	empty(t, a.Path())
}

// A container's root with CAP_SYS_ADMIN can make its channel writable. It finds nothing there but what is its
// own, and spoils no start but its own: the driver hands nothing to what it did not make.
func TestContainersRootMakesItsChannelWritable(t *testing.T) {
	e := newEngine(t)
	s := e.start(t, container.Config{Image: e.image(t)}, container.HostConfig{
		CapAdd: []string{"SYS_ADMIN"}, SecurityOpt: []string{"apparmor=unconfined"},
	})
	victim := filepath.Join(filepath.Dir(s.channel), "victim")
	must.NoError(t, os.Mkdir(victim, channelMode))
	out, exit := s.run(Payload{Argv: sh(`cd ` + ContainerChannel + `
		{ echo x > new; } 2>/dev/null && echo writable before
		busybox mount -o remount,rw,bind ` + ContainerChannel + ` && cd / && cd ` + ContainerChannel + ` && echo x > new && busybox chmod 0777 . && echo writable
		ls ../victim 2>/dev/null && echo sees another
		ls -a .. | busybox grep -c victim`)})
	must.Zero(t, exit-1) // grep's
	must.Eq(t, "writable\n0\n", out)
	empty(t, victim)
	_, err := New(s.channel)
	must.ErrorContains(t, err, "users other than root can write to it")
	must.FileExists(t, filepath.Join(s.channel, "new"))
}
