package live

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func TestAFieldIsReadByName(t *testing.T) {
	n := newNode(t)
	f := n.feeder("docker", nil)
	big := strings.Repeat("0123456789abcdef", 1<<16)
	dir := n.placed(f, Directory{Name: "a"}, "user", "bob", "tls/key", "k\x00\xff\n", "empty", "", "big", big)

	for name, want := range map[string]string{"user": "bob", "tls/key": "k\x00\xff\n", "empty": "", "big": big} {
		got, err := read(filepath.Join(dir, name))
		must.NoError(t, err)
		must.Eq(t, len(want), len(got))
		must.True(t, want == got)
	}
	for name, want := range map[string]error{
		"nobody": unix.ENOENT, "tls/other": unix.ENOENT, "user/x": unix.ENOTDIR,
		strings.Repeat("n", 255): unix.ENOENT, strings.Repeat("n", 256): unix.ENAMETOOLONG, strings.Repeat("n", 2000): unix.ENAMETOOLONG,
	} {
		_, err := read(filepath.Join(dir, name))
		must.ErrorIs(t, err, want, must.Sprint(name))
	}
	for _, folder := range []string{dir, filepath.Join(dir, "tls")} {
		names, err := os.ReadDir(folder)
		must.NoError(t, err)
		must.SliceEmpty(t, names)
	}
	st, err := os.Stat(filepath.Join(dir, "big"))
	must.NoError(t, err)
	must.Eq(t, int64(len(big)), st.Size())
	must.Eq(t, os.FileMode(0o400), st.Mode())
}

func TestNothingCanBeWritten(t *testing.T) {
	n := newNode(t)
	dir := n.placed(n.feeder("docker", nil), Directory{Name: "a"}, "user", "bob")
	user, other := filepath.Join(dir, "user"), filepath.Join(dir, "other")
	try := func() map[string]error {
		return map[string]error{
			"write":    justErr(unix.Open(user, unix.O_WRONLY, 0)),
			"append":   justErr(unix.Open(user, unix.O_WRONLY|unix.O_APPEND, 0)),
			"truncate": unix.Truncate(user, 0),
			"create":   justErr(unix.Open(other, unix.O_WRONLY|unix.O_CREAT, 0o600)),
			"unlink":   unix.Unlink(user),
			"rename":   unix.Rename(user, other),
			"chmod":    unix.Chmod(user, 0o777),
			"chown":    unix.Chown(user, 1, 1),
			"mkdir":    unix.Mkdir(other, 0o700),
			"link":     unix.Link(user, other),
			"symlink":  unix.Symlink(user, other),
			"setxattr": unix.Setxattr(user, "user.x", []byte("y"), 0),
			"mknod":    unix.Mknod(other, unix.S_IFIFO|0o600, 0),
			"tmpfile":  justErr(unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)),
		}
	}
	for what, err := range try() {
		must.ErrorIs(t, err, unix.EROFS, must.Sprint(what))
	}
	// As a container's root with CAP_SYS_ADMIN can: then the file server itself is asked.
	must.NoError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	must.NoError(t, unix.Mount("", dir, "", unix.MS_REMOUNT, ""))
	for what, err := range try() {
		if what == "setxattr" || what == "tmpfile" {
			must.Error(t, err, must.Sprint(what))
			continue
		}
		must.ErrorIs(t, err, unix.EROFS, must.Sprint(what))
	}
	must.NoError(t, wantFile(user, "bob")())
}

func justErr(fd int, err error) error {
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

func TestAListingIsShownWhereItWasDeclared(t *testing.T) {
	n := newNode(t)
	dir := n.placed(n.feeder("docker", nil), Directory{Name: "a", Listing: true}, "user", "bob", "tls/key", "k", "tls/cert", "c")
	names := func(dir string) string {
		entries, err := os.ReadDir(dir)
		must.NoError(t, err)
		var list []string
		for _, e := range entries {
			if e.IsDir() {
				list = append(list, e.Name()+"/")
			} else {
				list = append(list, e.Name())
			}
		}
		return strings.Join(list, " ")
	}
	must.Eq(t, "tls/ user", names(dir))
	must.Eq(t, "cert key", names(filepath.Join(dir, "tls")))
}

func TestAChangeIsSeenAtTheNextOpen(t *testing.T) {
	n := newNode(t)
	f := n.feeder("docker", nil)
	dir := n.placed(f, Directory{Name: "a"}, "v", "short")
	path := filepath.Join(dir, "v")
	must.NoError(t, wantFile(path, "short")())
	open, err := unix.Open(path, unix.O_RDONLY, 0)
	must.NoError(t, err)
	defer unix.Close(open)
	for _, v := range []string{strings.Repeat("long", 10_000), "", "x"} {
		must.NoError(t, f.Set(t.Context(), "a", fields("v", v), time.Now()))
		must.NoError(t, wantFile(path, v)())
	}
	// What was opened before stays what it was, as with a file that is replaced.
	buf := make([]byte, 100)
	got, err := unix.Read(open, buf)
	must.NoError(t, err)
	must.Eq(t, "short", string(buf[:got]))
}

func TestAUserAndItsPasswordMatch(t *testing.T) {
	n := newNode(t)
	f := n.feeder("docker", nil)
	dir := n.placed(f, Directory{Name: "a"}, "user", "0", "password", "0")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 1; ctx.Err() == nil; i++ {
			v := strings.Repeat("x", i%7) + time.Now().String()
			_ = f.Set(t.Context(), "a", fields("user", v, "password", v), time.Now())
		}
	}()
	defer func() { cancel(); <-done }()
	seen := map[string]bool{}
	for i := 0; len(seen) < 1000 && i < 100_000; i++ {
		user, err := read(filepath.Join(dir, "user"))
		must.NoError(t, err)
		password, err := read(filepath.Join(dir, "password"))
		must.NoError(t, err)
		must.Eq(t, user, password)
		seen[user] = true
	}
	must.GreaterEq(t, 1000, len(seen))
}

func TestStaleValuesAreNotServed(t *testing.T) {
	n := newNode(t)
	f := n.feeder("docker", nil)
	dir := n.placed(f, Directory{Name: "a", Stale: 2 * time.Second}, "v", "x")
	path := filepath.Join(dir, "v")
	must.NoError(t, wantFile(path, "x")())
	open, err := unix.Open(path, unix.O_RDONLY, 0)
	must.NoError(t, err)
	defer unix.Close(open)
	must.NoError(t, f.Fresh(t.Context(), "a", time.Now()))
	must.NoError(t, wantFile(path, "x")())
	eventually(t, 4*time.Second, func() error {
		if _, err := read(path); !errors.Is(err, unix.EIO) {
			return os.ErrExist
		}
		return nil
	})
	names, err := os.ReadDir(dir)
	must.NoError(t, err)
	must.SliceEmpty(t, names)

	// It comes back with the first fresh look, though that says no more than "unchanged".
	must.NoError(t, f.Fresh(t.Context(), "a", time.Now()))
	must.NoError(t, wantFile(path, "x")())
}

func TestOnlyTheOwnerReads(t *testing.T) {
	n := newNode(t)
	f := n.feeder("docker", nil)
	dir := n.placed(f, Directory{Name: "a", UID: 1000, GID: 1001}, "v", "x")
	for p := n.shared; p != "/"; p = filepath.Dir(p) {
		must.NoError(t, os.Chmod(p, 0o755))
	}
	must.NoError(t, as(1000, filepath.Join(dir, "v")))
	must.ErrorContains(t, as(1001, filepath.Join(dir, "v")), "ermission denied")
	must.NoError(t, asRootOfANamespace(1000, filepath.Join(dir, "v")))
	must.ErrorContains(t, asRootOfANamespace(1001, filepath.Join(dir, "v")), "ermission denied")

	_, err := f.Declare(t.Context(), Directory{Name: "a", UID: 1002, Mode: 0o440, Stale: time.Hour})
	must.NoError(t, err)
	eventually(t, 3*time.Second, func() error { return as(1002, filepath.Join(dir, "v")) })
	must.ErrorContains(t, as(1000, filepath.Join(dir, "v")), "ermission denied")
}

func TestReadsAreReported(t *testing.T) {
	n := newNode(t)
	reads := make(chan Reads, 100)
	f := n.feeder("docker", func(c *Config) { c.Reads = func(r Reads) { reads <- r } })
	dir := n.placed(f, Directory{Name: "a"}, "v", "x")
	must.NoError(t, wantFile(filepath.Join(dir, "v"), "x")())
	_, err := read(filepath.Join(dir, "made-up"))
	must.ErrorIs(t, err, unix.ENOENT)

	var got []string
	active := map[string]bool{}
	for len(got) < 2 {
		select {
		case r := <-reads:
			for _, o := range r.Opens {
				must.Eq(t, uint32(os.Getuid()), o.UID)
				must.Positive(t, o.PID)
				must.Less(t, 10*time.Second, time.Since(o.At))
				got = append(got, o.Dir+" "+o.Field+" "+o.Result)
			}
			for _, d := range r.Active {
				active[d] = true
			}
		case <-time.After(5 * time.Second):
			t.Fatal("no report")
		}
	}
	must.Eq(t, []string{"a v ok", "a made-up unknown"}, got)
	must.True(t, active["a"])
}

func TestReportsThatNobodyTakesAreCounted(t *testing.T) {
	n := newNode(t)
	busy, counted := make(chan struct{}), 0
	all := make(chan struct{})
	const reads = 3000
	f := n.feeder("docker", func(c *Config) {
		c.Reads = func(r Reads) {
			<-busy
			if counted += len(r.Opens) + r.Lost; counted == reads+1 {
				close(all)
			}
		}
	})
	dir := n.placed(f, Directory{Name: "a"}, "v", "x")
	for i := range reads {
		must.NoError(t, wantFile(filepath.Join(dir, "v"), "x")())
		if i%10 == 0 && i < reads-500 {
			time.Sleep(10 * time.Millisecond) // more reports than are kept
		}
	}
	close(busy)
	must.NoError(t, wantFile(filepath.Join(dir, "v"), "x")()) // what was lost is told with what comes next
	eventually(t, 10*time.Second, func() error {
		select {
		case <-all:
			return nil
		default:
			return os.ErrDeadlineExceeded
		}
	})
}

func TestTheFirstReaderAfterAPauseWaitsForAFreshLook(t *testing.T) {
	n := newNode(t)
	want := make(chan string, 10)
	f := n.feeder("docker", func(c *Config) { c.Want = func(dir string) { want <- dir } })
	dir := n.placed(f, Directory{Name: "a"}, "v", "old")
	must.NoError(t, f.Fresh(t.Context(), "a", time.Now().Add(-time.Minute)))
	path := filepath.Join(dir, "v")

	go func() {
		if <-want == "a" {
			_ = f.Set(t.Context(), "a", fields("v", "new"), time.Now())
		}
	}()
	must.NoError(t, wantFile(path, "new")())

	// Nobody answers: the last value, after a wait for it. And those after it do not wait again: the quickest of them is quicker than the wait.
	must.NoError(t, f.Fresh(t.Context(), "a", time.Now().Add(-time.Minute)))
	<-time.After(1600 * time.Millisecond)
	begin := time.Now()
	must.NoError(t, wantFile(path, "new")())
	must.GreaterEq(t, 100*time.Millisecond, time.Since(begin))
	must.Eq(t, "a", <-want)
	quickest := time.Hour
	for range 10 {
		begin = time.Now()
		must.NoError(t, wantFile(path, "new")())
		quickest = min(quickest, time.Since(begin))
	}
	must.Less(t, 100*time.Millisecond, quickest)
}

// A feeder that begins anew knows what its predecessor had a while ago: a file server that has something newer keeps it, and
// its time; one that was started since gets what is known.
func TestRestoreKeepsWhatIsNewer(t *testing.T) {
	n := newNode(t)
	first := n.feeder("docker", nil)
	dir := n.placed(first, Directory{Name: "a"}, "v", "newer")
	path := filepath.Join(dir, "v")
	first.Close()

	var f *Feeder
	placed := func(ctx context.Context) {
		source, err := f.Source(ctx, "a")
		if err == nil {
			err = Place(source, dir)
		}
		if err != nil {
			t.Log(err)
		}
	}
	f = n.feeder("docker", func(c *Config) { c.Healed = placed })
	_, err := f.Declare(t.Context(), Directory{Name: "a", Stale: time.Minute})
	must.NoError(t, err)
	must.NoError(t, f.Restore(t.Context(), "a", fields("v", "older"), time.Now().Add(-time.Hour))) // which would be stale
	must.NoError(t, wantFile(path, "newer")())
	must.NoError(t, f.Restore(t.Context(), "a", fields("v", "older"), time.Now().Add(-time.Second)))
	must.NoError(t, wantFile(path, "newer")())

	n.killServer()
	eventually(t, 10*time.Second, wantFile(path, "older"))
}

// TestOthersDirectoriesCannotBeNamed is about a container's root with CAP_DAC_READ_SEARCH: a handle opens the root of the file
// system, above its own directory. There it must not know what others' are called.
func TestOthersDirectoriesCannotBeNamed(t *testing.T) {
	n := newNode(t)
	f := n.feeder("docker", nil)
	mine := n.placed(f, Directory{Name: "mine"}, "v", "x")
	n.placed(f, Directory{Name: "other"}, "v", "the other's")
	source, err := f.Source(t.Context(), "mine")
	must.NoError(t, err)
	own := filepath.Base(source)

	mount, err := unix.Open(mine, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must.NoError(t, err)
	defer unix.Close(mount)
	handle := unix.NewFileHandle(0x81, []byte{0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}) // FUSE's root is 1
	root, err := unix.OpenByHandleAt(mount, handle, unix.O_RDONLY|unix.O_DIRECTORY)
	must.NoError(t, err)
	defer unix.Close(root)
	open := func(name string) error { return justErr(unix.Openat(root, name, unix.O_RDONLY, 0)) }
	must.NoError(t, open(own+"/v"))
	for _, guess := range []string{"other", "docker:other", strings.ReplaceAll(own, "mine", "other")} {
		must.ErrorIs(t, open(guess+"/v"), unix.ENOENT, must.Sprint(guess))
	}
	names := make([]byte, 4096)
	size, err := unix.ReadDirent(root, names)
	must.NoError(t, err)
	must.StrNotContains(t, string(names[:size]), "other")
}
