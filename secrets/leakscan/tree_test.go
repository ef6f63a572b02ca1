package leakscan

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// Whoever owns the tree puts a link in the place of a directory while it is walked: the walk stays within.
func TestTreeIsChangedMeanwhile(t *testing.T) {
	value := rand.Text()
	s := newScanner(t, value)
	dir, elsewhere := t.TempDir(), t.TempDir()
	must.NoError(t, os.WriteFile(filepath.Join(elsewhere, "file"), []byte(value), 0o600))
	must.NoError(t, os.Mkdir(filepath.Join(dir, "a"), 0o700))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "a", "file"), []byte("nothing"), 0o600))
	must.NoError(t, os.Symlink(elsewhere, filepath.Join(dir, "b")))
	ctx, stop := context.WithCancel(t.Context())
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for ctx.Err() == nil {
			_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "a"), unix.AT_FDCWD, filepath.Join(dir, "b"), unix.RENAME_EXCHANGE)
		}
	})
	for range 300 {
		must.SliceEmpty(t, scan(t, s, Tree("tree", dir, TreeOptions{})).Hits)
	}
	stop()
	swapper.Wait()
}

func TestTreeLeavesOut(t *testing.T) {
	value := rand.Text()
	s := newScanner(t, value)
	dir := t.TempDir()
	for _, path := range []string{"overlay2/x/file", "containers/x/overlay2/file", "io.snapshotter.v1/file"} {
		must.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o700))
		must.NoError(t, os.WriteFile(filepath.Join(dir, path), []byte(value), 0o600))
	}
	large := filepath.Join(dir, "large")
	must.NoError(t, os.WriteFile(large, []byte(value), 0o600))
	must.NoError(t, os.Truncate(large, 1<<40)) // a terabyte, of which nothing is on the disk
	report := scan(t, s, Tree("tree", dir, TreeOptions{SkipDirs: []string{"overlay2", "io.*"}, MaxFile: 1 << 20}))
	var places []string
	for _, h := range report.Hits {
		places = append(places, strings.TrimPrefix(h.Place, dir+"/"))
	}
	must.Eq(t, []string{"containers/x/overlay2/file", "large"}, places)
	must.Eq(t, []string{dir + "/io.snapshotter.v1: left out", large + ": all but its first 1 MiB", dir + "/overlay2: left out"}, report.Skipped)
}

// A bind mount within one file system is a mount, too: it may be of the whole disk.
func TestTreeLeavesOutBindMounts(t *testing.T) {
	value := rand.Text()
	s := newScanner(t, value)
	dir, elsewhere := t.TempDir(), t.TempDir()
	must.NoError(t, os.WriteFile(filepath.Join(elsewhere, "file"), []byte(value), 0o600))
	on := filepath.Join(dir, "bound")
	must.NoError(t, os.Mkdir(on, 0o700))
	must.NoError(t, unix.Mount(elsewhere, on, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must.NoError(t, unix.Unmount(on, 0)) })
	must.Len(t, 1, scan(t, s, Tree("tree", dir, TreeOptions{})).Hits)
	report := scan(t, s, Tree("tree", dir, TreeOptions{Mounts: NoMounts}))
	must.SliceEmpty(t, report.Hits)
	must.Len(t, 1, report.Skipped)
}

func TestTreeIsBounded(t *testing.T) {
	s := newScanner(t, rand.Text())
	top := t.TempDir()
	at, err := os.Open(top)
	must.NoError(t, err)
	for range maxDepth + 20 { // deeper than a path can name
		must.NoError(t, unix.Mkdirat(int(at.Fd()), "a-directory-with-a-long-name", 0o700))
		fd, err := unix.Openat(int(at.Fd()), "a-directory-with-a-long-name", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must.NoError(t, err)
		must.NoError(t, at.Close())
		at = os.NewFile(uintptr(fd), "deep")
	}
	must.NoError(t, at.Close())
	report := scan(t, s, Tree("tree", top, TreeOptions{}))
	must.Len(t, 1, report.Skipped)
	must.StrContains(t, report.Skipped[0], "directories deep")
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"in/file", "in/deeper/file", "out/file"} {
		must.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o700))
		must.NoError(t, os.WriteFile(filepath.Join(dir, path), []byte("of "+path), 0o600))
	}
	must.NoError(t, os.Symlink("out", filepath.Join(dir, "in", "link")))
	must.NoError(t, unix.Mkfifo(filepath.Join(dir, "in", "fifo"), 0o600))
	var seen []string
	must.NoError(t, Files(t.Context(), dir, TreeOptions{Enter: func(rel string) bool { return rel != "out" }}, func(path string, content io.Reader) error {
		text, err := io.ReadAll(content)
		seen = append(seen, string(text))
		must.Eq(t, "of "+strings.TrimPrefix(path, dir+"/"), string(text))
		return err
	}))
	must.Eq(t, []string{"of in/deeper/file", "of in/file"}, seen)
}

// However many values there are, a scanner of some has a bounded size, and all are found.
func TestSplit(t *testing.T) {
	var canaries []Canary
	for i := range 12000 {
		canaries = append(canaries, Canary{Name: fmt.Sprint(i), Value: rand.Text()})
	}
	groups := Split(canaries)
	must.Greater(t, 1, len(groups))
	all := 0
	for _, group := range groups {
		all += len(group)
		s, err := New(group...)
		must.NoError(t, err)
		must.Less(t, 4<<20, len(s.states))
		last := group[len(group)-1]
		must.Eq(t, last.Name, scan(t, s, Text("memory", "here", []byte("x"+last.Value))).Hits[0].Canary)
	}
	must.Eq(t, len(canaries), all)
	must.SliceEmpty(t, Split(nil))
}
