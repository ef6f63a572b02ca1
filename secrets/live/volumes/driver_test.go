package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	docker "github.com/docker/go-plugins-helpers/volume"
	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
)

func TestAVolumesLife(t *testing.T) {
	v := startVault(t)
	v.put("app-1", "user", "bob", "password", "first")
	n := newNode(t, v)
	d := n.open(nil)

	must.NoError(t, create(d, "secret/app-1/"))
	must.NoError(t, create(d, "secret/app-1")) // the same
	got, err := d.Get(&docker.GetRequest{Name: "secret//app-1/"})
	must.NoError(t, err)
	must.Eq(t, "secret//app-1/", got.Volume.Name)
	must.Eq(t, "", got.Volume.Mountpoint)
	list, err := d.List()
	must.NoError(t, err)
	must.Len(t, 1, list.Volumes)
	must.Eq(t, "secret/app-1", list.Volumes[0].Name)
	must.Eq(t, "local", d.Capabilities().Capabilities.Scope)
	must.MapEmpty(t, d.all()[0].Mounts)

	at := mount(t, d, "secret/app-1/", "one")
	must.Eq(t, at, mount(t, d, "secret/app-1", "two"))
	must.NoError(t, wantFile(filepath.Join(at, "user"), "bob")())
	names, err := os.ReadDir(at)
	must.NoError(t, err)
	must.SliceEmpty(t, names)
	above, err := os.Stat(filepath.Dir(at))
	must.NoError(t, err)
	must.Eq(t, os.ModeDir|0o700, above.Mode())

	v.put("app-1", "user", "bob", "password", "second")
	eventually(t, 1500*time.Millisecond, wantFile(filepath.Join(at, "password"), "second"))

	must.NoError(t, unmount(d, "secret/app-1", "one"))
	must.NoError(t, wantFile(filepath.Join(at, "user"), "bob")())
	must.ErrorContains(t, d.Remove(&docker.RemoveRequest{Name: "secret/app-1"}), "in use")
	must.NoError(t, unmount(d, "secret/app-1", "two"))
	must.NoError(t, d.Remove(&docker.RemoveRequest{Name: "secret/app-1"}))
	_, err = d.Get(&docker.GetRequest{Name: "secret/app-1"})
	must.ErrorContains(t, err, "no such volume: secret/app-1")
	n.nothingServed()
}

func TestOneDriverAtATime(t *testing.T) {
	v := startVault(t)
	n := newNode(t, v)
	d := n.open(nil)
	_, err := Open(Config{StateDir: n.path("state-2"), Home: n.path("live"), Shared: n.path("shared")})
	must.ErrorContains(t, err, "another volume driver runs with this directory")
	d.Close()
	n.open(nil)
}

func TestOptions(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "bob")
	v.put("app", "user", "eve")
	n := newNode(t, v)
	d := n.open(nil)
	must.NoError(t, create(d, "db", "path=secret/app/", "version=1", "uid=1000", "gid=1001", "listing=true", "stale=1m"))
	at := mount(t, d, "db", "x")
	must.NoError(t, wantFile(filepath.Join(at, "user"), "bob")())
	info, err := os.Stat(filepath.Join(at, "user"))
	must.NoError(t, err)
	must.Eq(t, 0o400, info.Mode().Perm())
	must.Eq(t, 1000, info.Sys().(*syscall.Stat_t).Uid)
	must.Eq(t, 1001, info.Sys().(*syscall.Stat_t).Gid)
	names, err := os.ReadDir(at)
	must.NoError(t, err)
	must.Len(t, 1, names)
	must.ErrorContains(t, create(d, "db", "path=secret/app"), "is there already, with other options")
	must.NoError(t, unmount(d, "db", "x"))
}

func TestWhatIsWrongIsToldAtOnce(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "bob")
	v.put("other", "user", "eve")
	v.admin("POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	v.admin("POST", "transit/keys/me", nil)
	n := newNode(t, v)
	d := n.open(func(c *Config) {
		c.Allow = Allow{"secret/app", "secret/none", "secret/mine/+/x", "transit/*", "sys/*", "team/secret/app"}
	})
	for name, c := range map[string]struct {
		volume string
		opts   []string
		want   string
	}{
		"not allowed":      {"secret/other", nil, "start the volume driver with -allow secret/other"},
		"not allowed here": {"secret/app", []string{"namespace=elsewhere"}, "-allow elsewhere/secret/app"},
		"below":            {"secret/app/sub", nil, "is not allowed on this node"},
		"one element only": {"secret/mine/a/b/x", nil, "is not allowed on this node"},
		"dot dot":          {"secret/app/../other", nil, `".." is not allowed`},
		"dot dot in path":  {"x", []string{"path=secret/../sys"}, `".." is not allowed`},
		"empty":            {"/", nil, "is the path of a secret"},
		"control":          {"secret/a\npp", nil, "control characters"},
		"option":           {"secret/app", []string{"pass=x"}, `unknown option "pass"`},
		"writable":         {"secret/app", []string{"mode=0644"}, "read permissions in octal"},
		"uid":              {"secret/app", []string{"uid=root"}, `option uid="root"`},
		"stale":            {"secret/app", []string{"stale=1ms"}, "between 10s and 720h"},
		"not there":        {"secret/none", nil, "secret/none: nothing is there"},
		"not stored":       {"transit/keys/me", nil, "each read makes another one"},
		"the server's own": {"sys/health", nil, "sys"},
	} {
		t.Run(name, func(t *testing.T) {
			must.ErrorContains(t, create(d, c.volume, c.opts...), c.want)
		})
	}
	list, err := d.List()
	must.NoError(t, err)
	must.SliceEmpty(t, list.Volumes)
	_, err = d.Mount(&docker.MountRequest{Name: "secret/app", ID: "x"})
	must.ErrorContains(t, err, "no such volume")
	n.nothingServed()
}

func TestTheServerIsAway(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "bob")
	v.put("other", "user", "eve")
	n := newNode(t, v)
	d := n.open(nil)
	must.NoError(t, create(d, "secret/app", "stale=20s"))
	must.NoError(t, create(d, "idle", "path=secret/app", "stale=20s"))
	at := mount(t, d, "secret/app", "x")
	user := filepath.Join(at, "user")
	must.NoError(t, wantFile(user, "bob")())

	v.pause()
	begin := time.Now()
	must.ErrorContains(t, create(d, "secret/other"), "no answer")
	must.NoError(t, wantFile(user, "bob")())
	_, err := d.Mount(&docker.MountRequest{Name: "idle", ID: "y"})
	if err == nil { // the other volume has the secret, not yet stale
		must.NoError(t, unmount(d, "idle", "y"))
	}
	eventually(t, time.Minute, func() error {
		if _, err := read(user); !errors.Is(err, unix.EIO) {
			return os.ErrExist
		}
		return nil
	})
	must.GreaterEq(t, 18*time.Second, time.Since(begin))
	_, err = d.Mount(&docker.MountRequest{Name: "idle", ID: "y"})
	must.ErrorContains(t, err, "no answer")
	v.resume()
	eventually(t, 12*time.Second, wantFile(user, "bob")) // a request was under way
	must.NoError(t, unmount(d, "secret/app", "x"))
	n.nothingServed()
}

func TestARestartOfTheDriverIsNotSeen(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "bob")
	n := newNode(t, v)
	d := n.open(nil)
	must.NoError(t, create(d, "secret/app"))
	at := mount(t, d, "secret/app", "x")
	d.Close()
	must.NoError(t, wantFile(filepath.Join(at, "user"), "bob")())

	d = n.open(nil)
	v.put("app", "user", "eve")
	eventually(t, 5*time.Second, wantFile(filepath.Join(at, "user"), "eve"))
	got, err := d.Path(&docker.PathRequest{Name: "secret/app"})
	must.NoError(t, err)
	must.Eq(t, at, got.Mountpoint)

	// The file server dies: another takes over.
	must.Eq(t, 1, n.killServer(syscall.SIGKILL))
	eventually(t, 2*time.Second, wantFile(filepath.Join(at, "user"), "eve"))

	// The machine was started again: nobody has the volume any more.
	d.Close()
	b, err := os.ReadFile(statePath(n.path("state")))
	must.NoError(t, err)
	must.StrNotContains(t, string(b), "eve")
	must.NoError(t, os.WriteFile(statePath(n.path("state")), []byte(strings.ReplaceAll(string(b), bootID(), "another")), 0o600))
	d = n.open(nil)
	n.nothingServed()
	must.NoError(t, wantFile(filepath.Join(mount(t, d, "secret/app", "y"), "user"), "eve")())
	must.NoError(t, unmount(d, "secret/app", "y"))
}

func TestWhoUsesAVolumeIsSeenFromMounts(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "bob")
	n := newNode(t, v)
	d := n.open(nil)
	must.NoError(t, create(d, "secret/app"))
	at := mount(t, d, "secret/app", "x")
	_, end := container(t, at, "")

	// Docker crashed, and believes that nobody has it.
	must.NoError(t, unmount(d, "secret/app", "x"))
	must.NoError(t, wantFile(filepath.Join(at, "user"), "bob")())
	must.ErrorContains(t, d.Remove(&docker.RemoveRequest{Name: "secret/app"}), "mounted in 1 places")
	vol := d.all()[0]
	d.sweep(vol)
	must.NotNil(t, vol.served())

	// Its Unmount was lost: what is over is seen all the same.
	vol.mounted("lost")
	end()
	d.sweep(vol)
	d.sweep(vol)
	must.NotNil(t, vol.served()) // it may be about to be mounted
	vol.mu.Lock()
	vol.Mounts["lost"] = time.Now().Add(-2 * mountSoon)
	vol.mu.Unlock()
	_, end = container(t, at, "")
	d.sweep(vol)
	end()
	d.sweep(vol)
	must.NotNil(t, vol.served()) // one look is not enough
	d.sweep(vol)
	must.Nil(t, vol.served())
	must.NoError(t, d.Remove(&docker.RemoveRequest{Name: "secret/app"}))
	n.nothingServed()
}

// Docker's volume-subpath.
func TestAFolderOfAVolumeIsAUseOfIt(t *testing.T) {
	v := startVault(t)
	v.admin("POST", "secret/data/app", map[string]any{"data": map[string]any{"tls": map[string]any{"key": "k"}}})
	n := newNode(t, v)
	d := n.open(nil)
	must.NoError(t, create(d, "secret/app"))
	at := mount(t, d, "secret/app", "x")
	inside, end := container(t, at, "tls")
	must.NoError(t, wantFile(filepath.Join(inside, "key"), "k")())
	must.NoError(t, unmount(d, "secret/app", "x"))
	must.NotNil(t, d.all()[0].served())
	must.NoError(t, wantFile(filepath.Join(inside, "key"), "k")())
	end()
	must.NoError(t, d.Remove(&docker.RemoveRequest{Name: "secret/app"}))
	n.nothingServed()
}

// TestAFileServerThatDoesNotStartAtFirst: the driver and the file server are away, and the new one does not start.
func TestAFileServerThatDoesNotStartAtFirst(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "bob")
	n := newNode(t, v)
	d := n.open(nil)
	must.NoError(t, create(d, "secret/app"))
	inside, _ := container(t, mount(t, d, "secret/app", "x"), "")
	user := filepath.Join(inside, "user")
	must.NoError(t, wantFile(user, "bob")())
	d.Close()
	must.Eq(t, 1, n.killServer(syscall.SIGKILL))
	locks, err := filepath.Glob(n.path("live/v[0-9]*.lock"))
	must.NoError(t, err)
	must.Len(t, 1, locks)
	must.NoError(t, os.Remove(locks[0]))
	must.NoError(t, os.Mkdir(locks[0], 0o700)) // it cannot be opened for writing

	d = n.open(nil)
	vol := d.all()[0]
	must.ErrorContains(t, d.resume(vol), "is a directory")
	d.sweep(vol)
	_, err = d.Mount(&docker.MountRequest{Name: "secret/app", ID: "y"})
	must.ErrorContains(t, err, "is a directory")
	must.NoError(t, os.Remove(locks[0]))
	d.sweep(vol)
	eventually(t, 5*time.Second, wantFile(user, "bob"))
}

// TestADirectoryThatIsNotPlaced is about a file server that took over, and whose directory could not be mounted then.
func TestADirectoryThatIsNotPlaced(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "bob")
	n := newNode(t, v)
	d := n.open(nil)
	must.NoError(t, create(d, "secret/app"))
	at := mount(t, d, "secret/app", "x")
	container(t, at, "")
	must.NoError(t, unix.Mount("tmpfs", at, "tmpfs", 0, "size=4k"))
	_, err := read(filepath.Join(at, "user"))
	must.ErrorIs(t, err, unix.ENOENT)
	d.sweep(d.all()[0])
	must.NoError(t, wantFile(filepath.Join(at, "user"), "bob")())
}

// TestAMountThatReadLate: its read was answered before a change that other volumes have seen since.
func TestAMountThatReadLate(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "first")
	n := newNode(t, v)
	hold, held, release := v.holdable()
	d := n.open(nil)
	must.NoError(t, create(d, "secret/app"))
	user := filepath.Join(mount(t, d, "secret/app", "x"), "user")
	must.NoError(t, wantFile(user, "first")())
	<-time.After(2 * time.Second) // the looks that this brought are over
	hold()
	mounted := make(chan error)
	go func() {
		_, err := d.Mount(&docker.MountRequest{Name: "secret/app", ID: "y"})
		mounted <- err
	}()
	<-held
	v.put("app", "user", "second")
	eventually(t, 3*time.Second, wantFile(user, "second"))
	release()
	must.NoError(t, <-mounted)
	must.NoError(t, wantFile(user, "second")())
}

func TestTheLookThatBeganLastCounts(t *testing.T) {
	s := &source{}
	begin := time.Now()
	older, newer := found{digest: [32]byte{1}, at: begin}, found{digest: [32]byte{2}, at: begin.Add(time.Second)}
	must.False(t, s.note(found{digest: [32]byte{1}, at: begin.Add(-time.Second)})) // the first is no change
	must.True(t, s.note(newer))
	must.False(t, s.note(older))
	must.Eq(t, newer, s.seen())
	must.False(t, s.note(newer))
}

// TestAChangeThatDoesNotFit: others have the room on the node. The old value is not called current, and the change comes when there is
// room.
func TestAChangeThatDoesNotFit(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "first")
	n := newNode(t, v)
	d := n.open(nil)
	must.NoError(t, create(d, "secret/app", "stale=10s"))
	user := filepath.Join(mount(t, d, "secret/app", "x"), "user")

	others := live.Open(live.Config{Feeder: "others", Dir: n.path("live"), Log: hclog.NewNullLogger()})
	defer others.Close()
	_, err := others.Declare(t.Context(), live.Directory{Name: "big", Stale: time.Hour})
	must.NoError(t, err)
	var big []live.Field
	for i := range 63 {
		big = append(big, live.Field{Path: fmt.Sprint(i), Value: secrets.TextValue(strings.Repeat("x", 1<<20))})
	}
	big = append(big, live.Field{Path: "rest", Value: secrets.TextValue(strings.Repeat("x", 1<<19))})
	must.NoError(t, others.Set(t.Context(), "big", big, time.Now()))

	v.put("app", "user", "second", "more", strings.Repeat("y", 1<<19))
	eventually(t, 20*time.Second, func() error {
		got, err := read(user)
		switch {
		case errors.Is(err, unix.EIO): // stale
			return nil
		case err == nil && got != "first":
			t.Errorf("%q", got)
		}
		return os.ErrDeadlineExceeded
	})
	_, err = d.Mount(&docker.MountRequest{Name: "secret/app", ID: "y"})
	must.ErrorContains(t, err, "the bound is")

	must.NoError(t, others.Withdraw(t.Context(), "big"))
	eventually(t, 5*time.Second, wantFile(user, "second"))
	must.NoError(t, unmount(d, "secret/app", "x"))
	n.nothingServed()
}

func TestAStateFileThatCannotBeReadIsToldOf(t *testing.T) {
	dir := t.TempDir()
	must.NoError(t, os.WriteFile(statePath(dir), []byte("{"), 0o600))
	_, err := loadState(dir)
	must.ErrorContains(t, err, "move it away")
	must.NoError(t, os.WriteFile(statePath(dir), []byte(`{"version": 99}`), 0o600))
	_, err = loadState(dir)
	must.ErrorContains(t, err, "is of version 99")
}

func TestReadsAreAudited(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "the-value")
	n := newNode(t, v)
	d := n.open(nil)
	must.NoError(t, create(d, "db", "path=secret/app"))
	at := mount(t, d, "db", "x")
	must.NoError(t, wantFile(filepath.Join(at, "user"), "the-value")())
	_, err := read(filepath.Join(at, "guess"))
	must.ErrorIs(t, err, unix.ENOENT)
	log := n.path("state/audit.log")
	eventually(t, 5*time.Second, func() error {
		b, err := os.ReadFile(log)
		if err == nil && strings.Count(string(b), "\n") < 2 {
			err = os.ErrNotExist
		}
		return err
	})
	b, err := os.ReadFile(log)
	must.NoError(t, err)
	must.StrContains(t, string(b), `"secret":"secret/app","volume":"db","field":"user","uid":0,`)
	must.StrContains(t, string(b), `"field":"guess"`)
	must.StrContains(t, string(b), `"result":"unknown"`)
	must.StrNotContains(t, string(b), "the-value")
	must.NoError(t, unmount(d, "db", "x"))
}
