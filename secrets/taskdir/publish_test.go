package taskdir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func setOf(files map[string]string) *secrets.Set {
	s := &secrets.Set{}
	for p, text := range files {
		s.Files = append(s.Files, secrets.RenderedFile{Path: p, Data: secrets.TextValue(text), Perms: secrets.DefaultPerms})
	}
	return s
}

func publisher(t testing.TB, dir string) *Publisher {
	t.Helper()
	p, err := OpenPublisher(dir)
	must.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// secretsDir is a directory as Nomad makes it.
func secretsDir(t testing.TB) string {
	dir := t.TempDir()
	must.NoError(t, os.Chmod(dir, 0o777))
	return dir
}

// tmpfs mounts one of a size, as Nomad does for a task's secrets.
func tmpfs(t testing.TB, opts string) string {
	t.Helper()
	dir := secretsDir(t)
	must.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID, opts), must.Sprint("these tests need root"))
	t.Cleanup(func() { must.NoError(t, unix.Unmount(dir, 0)) })
	must.NoError(t, os.Chmod(dir, 0o777))
	return dir
}

func read(t testing.TB, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	must.NoError(t, err)
	return string(b)
}

func listing(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must.NoError(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestPublish(t *testing.T) {
	old := unix.Umask(0o077) // a strict umask must not keep the task out
	defer unix.Umask(old)
	dir := secretsDir(t)
	p := publisher(t, dir)
	set := setOf(map[string]string{"tls/a/cert": "c1", "tls/key": "k1", "app": "a1", "bin": "\x00\xff\n"})
	for i := range set.Files {
		if set.Files[i].Path == "app" {
			set.Files[i].Perms, set.Files[i].UID, set.Files[i].GID = 0o644, new(5), new(6)
		}
	}
	must.NoError(t, p.Publish(set, 1001, 1002))
	must.Eq(t, "c1", read(t, dir, "tls/a/cert"))
	must.Eq(t, "\x00\xff\n", read(t, dir, "bin")) // S7

	stat := func(name string) unix.Stat_t {
		var st unix.Stat_t
		must.NoError(t, unix.Stat(filepath.Join(dir, name), &st))
		return st
	}
	key := stat("tls/key")
	must.Eq(t, []uint32{1001, 1002, 0o100400}, []uint32{key.Uid, key.Gid, key.Mode})
	app := stat("app")
	must.Eq(t, []uint32{5, 6, 0o100644}, []uint32{app.Uid, app.Gid, app.Mode})
	for _, d := range []string{"tls", "tls/a", "..data/"} {
		st := stat(d)
		must.Eq(t, []uint32{0, 0o40755}, []uint32{st.Uid, st.Mode}, must.Sprint(d))
	}
	for name, target := range map[string]string{"tls": "..data/tls", "app": "..data/app", "..data": "..set-000000000001"} {
		got, err := os.Readlink(filepath.Join(dir, name))
		must.NoError(t, err)
		must.Eq(t, target, got) // relative: it must resolve in a container, too
	}

	// The next set: names go and come, and the set before it stays.
	held, err := os.Open(filepath.Join(dir, "tls"))
	must.NoError(t, err)
	defer held.Close()
	must.NoError(t, p.Publish(setOf(map[string]string{"tls/key": "k2", "new/x": "n2"}), -1, -1))
	must.Eq(t, []string{"..data", "..set-000000000001", "..set-000000000002", "new", "tls"}, listing(t, dir))
	must.Eq(t, "k2", read(t, dir, "tls/key"))
	must.Eq(t, "k1", readAt(t, held, "key"))
	must.NoError(t, p.Publish(setOf(map[string]string{"tls": "a file now"}), -1, -1))
	must.Eq(t, []string{"..data", "..set-000000000002", "..set-000000000003", "tls"}, listing(t, dir))
	must.Eq(t, "a file now", read(t, dir, "tls"))

	must.NoError(t, p.Publish(&secrets.Set{}, -1, -1))
	must.Eq(t, []string{"..data", "..set-000000000003", "..set-000000000004"}, listing(t, dir))
	must.NoError(t, p.Remove())
	must.SliceEmpty(t, listing(t, dir))
	must.NoError(t, p.Remove())
	must.NoError(t, p.Publish(nil, -1, -1))
	must.SliceEmpty(t, listing(t, dir)) // nothing to show, nothing made
}

func readAt(t testing.TB, dir *os.File, name string) string {
	t.Helper()
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY, 0)
	must.NoError(t, err)
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b, err := io.ReadAll(f)
	must.NoError(t, err)
	return string(b)
}

// TestPublishReadersMatch upholds S6: readers that resolve the directory once get a pair that matches, and
// get it for as long as no second swap comes.
func TestPublishReadersMatch(t *testing.T) {
	dir := tmpfs(t, "size=4m")
	p := publisher(t, dir)
	publish := func(n int) error {
		text := fmt.Sprintf("%d %s", n, strings.Repeat("x", n%5000))
		return p.Publish(setOf(map[string]string{"db/user": text, "db/password": text}), -1, -1)
	}
	must.NoError(t, publish(0))

	var swaps atomic.Int64 // counted before and after each swap: 2n while set n is the newest
	var pairs, torn atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	for range cap(errs) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				before := swaps.Load()
				a, b, err := readPair(filepath.Join(dir, "db"))
				after := swaps.Load()
				if err == nil && a != b {
					errs <- fmt.Errorf("user %.10q with password %.10q", a, b)
					return
				}
				// From before to after, at most one swap began: then the set must have stayed.
				if err != nil && (after+1)/2-before/2 <= 1 {
					errs <- fmt.Errorf("within one swap: %w", err)
					return
				}
				if err != nil {
					torn.Add(1)
				}
				pairs.Add(1)
			}
		})
	}
	const rounds = 150
	for n := 1; n <= rounds; n++ {
		seen := pairs.Load()
		swaps.Add(1)
		err := publish(n)
		swaps.Add(1)
		if err != nil {
			t.Error(err)
			break
		}
		for pairs.Load() == seen && len(errs) == 0 { // let each set be read
			runtime.Gosched()
		}
	}
	close(stop)
	wg.Wait()
	select {
	case err := <-errs:
		t.Fatal(err)
	default:
	}
	must.Greater(t, rounds/2, pairs.Load()-torn.Load())
}

func readPair(dir string) (user, password string, err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", "", fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	var out [2]string
	for i, name := range []string{"user", "password"} {
		n, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", "", fmt.Errorf("openat %s: %w", name, err)
		}
		f := os.NewFile(uintptr(n), name)
		b, err := io.ReadAll(f)
		f.Close()
		if err != nil {
			return "", "", err
		}
		out[i] = string(b)
	}
	return out[0], out[1], nil
}

// TestPublishSpace upholds S5's limit.
func TestPublishSpace(t *testing.T) {
	dir := tmpfs(t, "size=1m")
	p := publisher(t, dir)
	big := func(kib int, c string) *secrets.Set { return setOf(map[string]string{"f": strings.Repeat(c, kib<<10)}) }

	err := p.Publish(big(480, "x"), -1, -1)
	must.EqError(t, err, "publish files: the files take 484 KiB and the secrets directory has 1024 KiB, of which one set may take 45% (a rotation holds two); set secrets = 2 or more in the task's resources block")
	must.SliceEmpty(t, listing(t, dir)) // nothing was written

	// Rounding to pages counts: 200 files of one byte are 800 KiB.
	many := map[string]string{}
	for i := range 200 {
		many[fmt.Sprint("f", i)] = "x"
	}
	must.ErrorContains(t, p.Publish(setOf(many), -1, -1), "the files take 804 KiB")

	// A rotation holds two, and a third goes on: the one before the current makes room.
	for i := range 6 {
		c := string(rune('a' + i))
		must.NoError(t, p.Publish(big(430, c), -1, -1))
		must.Eq(t, strings.Repeat(c, 430<<10), read(t, dir, "f"))
	}

	// The task fills the rest: an error, and what was there stays.
	must.NoError(t, p.Publish(big(4, "z"), -1, -1))
	must.NoError(t, p.Publish(big(4, "z"), -1, -1))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "junk"), make([]byte, 980<<10), 0o666))
	before := listing(t, dir)
	must.ErrorContains(t, p.Publish(big(400, "y"), -1, -1), "of the secrets directory's 1024 KiB only")
	must.Eq(t, strings.Repeat("z", 4<<10), read(t, dir, "f"))
	must.SliceContainsSubset(t, before, listing(t, dir))
}

// TestPublishNoInodes: running out of something that is not bytes leaves no half set either.
func TestPublishNoInodes(t *testing.T) {
	dir := tmpfs(t, "size=1m,nr_inodes=12")
	p := publisher(t, dir)
	must.NoError(t, p.Publish(setOf(map[string]string{"a": "1"}), -1, -1))
	before := listing(t, dir)
	many := map[string]string{"a": "2"}
	for i := range 20 {
		many[fmt.Sprint("d/f", i)] = "x"
	}
	err := p.Publish(setOf(many), -1, -1)
	must.ErrorIs(t, err, unix.ENOSPC)
	must.ErrorContains(t, err, "resources block")
	must.Eq(t, before, listing(t, dir))
	must.Eq(t, "1", read(t, dir, "a"))
}

// TestPublishInTheWay: what is not ours and was there first is not lost.
func TestPublishInTheWay(t *testing.T) {
	dir := secretsDir(t)
	must.NoError(t, os.WriteFile(filepath.Join(dir, "my.cnf"), []byte("a template block's"), 0o644))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "vault_token"), []byte("Nomad's"), 0o600))
	p := publisher(t, dir)
	err := p.Publish(setOf(map[string]string{"a": "1", "my.cnf": "ours"}), -1, -1)
	must.EqError(t, err, `publish files: file "my.cnf": something else has that name in the secrets directory (a template block, or the task itself); use another name`)
	must.NoError(t, p.Publish(setOf(map[string]string{"a": "1"}), -1, -1))
	must.Error(t, p.Publish(setOf(map[string]string{"a": "2", "my.cnf": "ours"}), -1, -1))
	must.Eq(t, "1", read(t, dir, "a"))
	must.NoError(t, p.Remove())
	must.Eq(t, []string{"my.cnf", "vault_token"}, listing(t, dir))

	// A set need not come from Render.
	for _, bad := range []string{"../x", "/x", "vault_token", "..data/x", ""} {
		must.Error(t, p.Publish(setOf(map[string]string{bad: "x"}), -1, -1))
	}
	must.Eq(t, []string{"my.cnf", "vault_token"}, listing(t, dir))
}

// TestPublishAfterCrash: whichever step the plugin was killed at, a new start shows one whole set and
// leaves nothing lying about.
func TestPublishAfterCrash(t *testing.T) {
	build := func(dir string, names ...string) {
		for _, n := range names {
			name, target, isLink := strings.Cut(n, " -> ")
			if isLink {
				must.NoError(t, os.Symlink(target, filepath.Join(dir, name)))
				continue
			}
			must.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
			must.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(filepath.Dir(name)), 0o400))
		}
	}
	const s1, s2, s3 = "..set-000000000001", "..set-000000000002", "..set-000000000003"
	before := []string{s1 + "/old", s2 + "/old", s2 + "/both", "..data -> " + s2, "old -> ..data/old", "both -> ..data/both"}
	for name, c := range map[string]struct {
		state []string
		left  []string
		shows string
	}{
		"nothing at all":               {nil, nil, ""},
		"first set, unfinished":        {[]string{s1 + "/both"}, nil, ""},
		"first set, links made":        {[]string{s1 + "/both", "both -> ..data/both"}, nil, ""},
		"first set, ..data on its way": {[]string{s1 + "/both", "both -> ..data/both", "..link -> " + s1}, nil, ""},
		"before":                       {before, []string{"..data", s1, s2, "both", "old"}, s2},
		"next set, unfinished":         {append(slices.Clone(before), s3+"/both"), []string{"..data", s1, s2, "both", "old"}, s2},
		"next set, new links":          {append(slices.Clone(before), s3+"/new", "new -> ..data/new"), []string{"..data", s1, s2, "both", "old"}, s2},
		"next set, link on its way":    {append(slices.Clone(before), s3+"/new", "..link -> "+s3), []string{"..data", s1, s2, "both", "old"}, s2},
		"swapped, not cleared": {[]string{s1 + "/old", s2 + "/old", s3 + "/both", s3 + "/new", "..data -> " + s3, "old -> ..data/old", "both -> ..data/both", "new -> ..data/new"},
			[]string{"..data", s2, s3, "both", "new"}, s3},
		"a set gone":    {[]string{s1 + "/both", "both -> ..data/both", "..data -> " + s3}, nil, ""},
		"removal begun": {[]string{s1 + "/both", s2 + "/both", "both -> ..data/both"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := secretsDir(t)
			build(dir, c.state...)
			p := publisher(t, dir)
			must.Eq(t, c.left, listing(t, dir))
			if c.shows != "" {
				must.Eq(t, c.shows, read(t, dir, "both"))
			}
			must.NoError(t, p.Publish(setOf(map[string]string{"both": "now"}), -1, -1))
			must.Eq(t, "now", read(t, dir, "both"))
			_, err := os.Lstat(filepath.Join(dir, "old"))
			must.ErrorIs(t, err, fs.ErrNotExist)
		})
		t.Run(name+", published without a restart", func(t *testing.T) {
			dir := secretsDir(t)
			p := publisher(t, dir)
			build(dir, c.state...)
			must.NoError(t, p.Publish(setOf(map[string]string{"both": "now"}), -1, -1))
			must.Eq(t, "now", read(t, dir, "both"))
			for _, name := range listing(t, dir) {
				must.True(t, name == "..data" || name == "both" || strings.HasPrefix(name, setPrefix), must.Sprint(name))
			}
			must.LessEq(t, 4, len(listing(t, dir)))
		})
	}
}

func TestOpenPublisherRefuses(t *testing.T) {
	dir := t.TempDir()
	must.NoError(t, os.Symlink("/", filepath.Join(dir, "link")))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for _, name := range []string{"link", "file", "none"} {
		_, err := OpenPublisher(filepath.Join(dir, name))
		must.ErrorContains(t, err, "open secrets directory")
		must.Eq(t, name == "none", errors.Is(err, fs.ErrNotExist))
	}
}
