package launcher

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

const testAlloc = "f0a1b2c3-0000-1111-2222-333344445555"

// channels are some tasks' channels, which are there.
func channels(t *testing.T, tasks ...string) (parent string, all []Channel) {
	parent = t.TempDir()
	for _, task := range tasks {
		c := ChannelOf(parent, testAlloc, task)
		must.NoError(t, c.Make())
		all = append(all, c)
	}
	return parent, all
}

// What one container has bound no other has, and not the one that had the channel before: it may have written to it.
func TestFilesAreOneContainers(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	_, two := channels(t, "a", "b")
	installer := &Installer{Dirs: []string{executableDir(t)}}
	host, err := installer.Install()
	must.NoError(t, err)
	var bound []os.FileInfo
	isNew := func(path string, mode os.FileMode, content []byte) {
		t.Helper()
		var st unix.Stat_t
		must.NoError(t, unix.Lstat(path, &st))
		must.Eq(t, Owner{}, Owner{int(st.Uid), int(st.Gid)})
		must.Eq(t, 1, st.Nlink)
		info, err := os.Lstat(path)
		must.NoError(t, err)
		must.Eq(t, mode, info.Mode())
		found, err := os.ReadFile(path)
		must.NoError(t, err)
		must.True(t, string(content) == string(found), must.Sprint(path))
		for _, other := range bound {
			must.False(t, os.SameFile(other, info), must.Sprint(path))
		}
		bound = append(bound, info)
	}
	isNew(host, 0o555, binary)
	var kept []*os.File // as a container keeps them: a number that is free is given again
	for _, c := range []Channel{two[0], two[1], two[0], two[1]} {
		files, err := installer.FilesFor(c)
		must.NoError(t, err)
		isNew(files.Launcher, 0o555, binary)
		isNew(files.Empty, 0o444, nil)
		for _, path := range []string{files.Launcher, files.Empty} {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			must.NoError(t, err)
			_, err = f.WriteAt([]byte("x"), 1) // as its container's root may
			must.NoError(t, err)
			kept = append(kept, f)
		}
		for dir := filepath.Dir(files.Launcher); dir != installer.Dirs[0]; dir = filepath.Dir(dir) {
			info, err := os.Stat(dir)
			must.NoError(t, err)
			must.Eq(t, os.ModeDir|0o711, info.Mode())
		}
	}
	must.True(t, new(Installer).intact(host))
	for _, f := range kept {
		must.NoError(t, f.Close())
	}

	for _, c := range []Channel{two[0], two[0], two[1], ChannelOf(two[0].parent, testAlloc, "never")} {
		must.NoError(t, installer.RemoveFiles(c))
	}
	empty(t, filepath.Join(installer.Dirs[0], containersDir))
}

// A directory where they cannot be made is as one that the launcher cannot be put in.
func TestFilesFindAnotherDirectory(t *testing.T) {
	full, good := t.TempDir(), t.TempDir()
	must.NoError(t, unix.Mount("tmpfs", full, "tmpfs", 0, fmt.Sprintf("mode=0755,size=%d", len(binary)*3/2))) // it has room for the launcher, and not twice
	t.Cleanup(func() { must.NoError(t, unix.Unmount(full, unix.MNT_DETACH)) })
	_, one := channels(t, "web")
	_, err := (&Installer{Dirs: []string{full}}).FilesFor(one[0])
	must.ErrorIs(t, err, ErrNotInstalled)
	must.ErrorIs(t, err, unix.ENOSPC)
	must.ErrorContains(t, err, full+": make the files of a container")
	empty(t, filepath.Join(full, containersDir))

	installer := &Installer{Dirs: []string{full, good}}
	files, err := installer.FilesFor(one[0])
	must.NoError(t, err)
	must.StrHasPrefix(t, good, files.Launcher)
	must.NoError(t, installer.RemoveFiles(one[0]))
	empty(t, filepath.Join(good, containersDir))
}

// What a killed plugin left goes with the task's journal; what is another state directory's, when nobody can use it any more.
func TestSweepFiles(t *testing.T) {
	parent, own := channels(t, "there", "left", "a b", "c d")
	elsewhere, strangers := channels(t, "runs", "old", "fresh", "half")
	installer := &Installer{Dirs: []string{t.TempDir()}}
	dir := filepath.Join(installer.Dirs[0], containersDir)
	must.NoError(t, installer.SweepFiles(parent, nil), must.Sprint("there are none yet"))
	for _, c := range append(own, strangers...) {
		_, err := installer.FilesFor(c)
		must.NoError(t, err)
	}
	for _, c := range append(strangers[1:], own[3]) {
		must.NoError(t, c.Remove())
	}
	must.NoError(t, os.Remove(filepath.Join(dir, strangers[3].name, channelLink))) // a plugin was killed while it made them
	long := time.Now().Add(-strangersAge - time.Hour)
	for _, c := range []Channel{own[0], own[2], own[3], strangers[0], strangers[1], strangers[3]} {
		must.NoError(t, os.Chtimes(filepath.Join(dir, c.name), long, long))
	}
	must.NoError(t, installer.SweepFiles(parent, func(allocID, task string) bool {
		must.Eq(t, testAlloc, allocID)
		must.SliceContains(t, []string{"there", "left"}, task, must.Sprint("only of one's own is asked"))
		return task == "there"
	}))
	for c, stays := range map[Channel]bool{
		own[0]: true, own[1]: false, own[2]: true, own[3]: false, strangers[0]: true, strangers[1]: false, strangers[2]: true, strangers[3]: false,
	} {
		_, err := os.Lstat(filepath.Join(dir, c.name))
		must.Eq(t, stays, err == nil, must.Sprint(c.name))
	}
	must.DirExists(t, elsewhere)
}

// Nothing is removed where others than root may have put a link.
func TestFilesOfOthersAreNotRemoved(t *testing.T) {
	dir, victim := t.TempDir(), t.TempDir()
	_, one := channels(t, "web")
	long := time.Now().Add(-strangersAge - time.Hour)
	for _, name := range []string{one[0].name, "other"} {
		must.NoError(t, os.Mkdir(filepath.Join(victim, name), 0o755))
		must.NoError(t, os.Chtimes(filepath.Join(victim, name), long, long))
	}
	must.NoError(t, errors.Join(os.Chmod(dir, 0o777), os.Symlink(victim, filepath.Join(dir, containersDir))))
	installer := &Installer{Dirs: []string{dir}}
	must.NoError(t, installer.RemoveFiles(one[0]))
	must.NoError(t, installer.SweepFiles(one[0].parent, func(string, string) bool { return false }))
	left, err := os.ReadDir(victim)
	must.NoError(t, err)
	must.SliceLen(t, 2, left)
}

// BenchmarkFiles is what a start pays for them.
func BenchmarkFiles(b *testing.B) {
	installer := &Installer{Dirs: []string{executableDir(b)}}
	c := testChannel(b)
	for b.Loop() {
		_, err := installer.FilesFor(c)
		must.NoError(b, err)
	}
}
