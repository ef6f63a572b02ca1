package statedir

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// mountPoints are the mounts below a directory, by their path from it.
func mountPoints(t *testing.T, below string) map[string]mountInfo {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	found := map[string]mountInfo{}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		rel, ok := strings.CutPrefix(fields[4], below+"/")
		if !ok {
			continue
		}
		optional, rest, _ := strings.Cut(strings.Join(fields[6:], " "), "- ")
		kind := strings.Fields(rest)
		m := found[rel]
		m.count++
		m.options, m.propagation, m.fs, m.super = fields[5], strings.TrimSpace(optional), kind[0], kind[2]
		found[rel] = m
	}
	return found
}

type mountInfo struct {
	count                           int
	options, propagation, fs, super string
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	require.NoError(t, err)
	return info.Mode().Perm()
}

// newPath is where a state directory may be made. What gets mounted there goes with the test.
func newPath(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	t.Cleanup(func() {
		for rel, m := range mountPoints(t, path) {
			for range m.count {
				require.NoError(t, unix.Unmount(filepath.Join(path, rel), unix.MNT_DETACH))
			}
		}
	})
	return path
}

// knowsNoswap reports whether the kernel can keep a tmpfs out of swap: 6.4 or later.
func knowsNoswap(t *testing.T) bool {
	t.Helper()
	dir := t.TempDir()
	if unix.Mount("tmpfs", dir, "tmpfs", 0, "noswap") != nil {
		return false
	}
	require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH))
	return true
}

func TestOpenMakesBothMounts(t *testing.T) {
	path := newPath(t)
	d, err := Open(path)
	require.NoError(t, err)

	mounts := mountPoints(t, path)
	require.Len(t, mounts, 2)
	for name, m := range mounts {
		require.Equal(t, "tmpfs", m.fs, name)
		require.Equal(t, 1, m.count, name)
		for _, option := range []string{"nosuid", "nodev", "noexec"} {
			require.Contains(t, strings.Split(m.options, ","), option, name)
		}
		require.Equal(t, knowsNoswap(t), strings.Contains(m.super, ",noswap"), name)
	}
	require.Empty(t, mounts["journal"].propagation)
	require.Contains(t, mounts["shared"].propagation, "shared:")
	require.Contains(t, mounts["shared"].super, "size=1024k")
	require.Contains(t, mounts["shared"].super, "nr_inodes=16384")

	require.Equal(t, os.FileMode(0o711), mode(t, path))
	require.Equal(t, os.FileMode(0o700), mode(t, filepath.Join(path, "journal")))
	require.Equal(t, os.FileMode(0o711), mode(t, filepath.Join(path, "shared")))
	require.Equal(t, filepath.Join(path, "journal", "docker"), d.Journal("docker"))
	require.Equal(t, os.FileMode(0o700), mode(t, d.Journal("docker")))
	require.Equal(t, filepath.Join(path, "shared", "channel"), d.Channel())
	require.Equal(t, os.FileMode(0o711), mode(t, d.Channel()))
	require.Equal(t, filepath.Join(path, "shared", "live"), d.Live())
	require.Equal(t, os.FileMode(0o711), mode(t, d.Live()))
}

func TestOpenAgainChangesNothing(t *testing.T) {
	path := newPath(t)
	d, err := Open(path)
	require.NoError(t, err)
	kept := filepath.Join(d.Journal("docker"), "kept")
	require.NoError(t, os.WriteFile(kept, nil, 0o600))
	before := mountPoints(t, path)

	_, err = Open(path)
	require.NoError(t, err)
	require.FileExists(t, kept)
	require.Equal(t, before, mountPoints(t, path))
}

func TestOpenByManyMountsOnce(t *testing.T) {
	path := newPath(t)
	var all sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		all.Go(func() { _, errs[i] = Open(path) })
	}
	all.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	for name, m := range mountPoints(t, path) {
		require.Equal(t, 1, m.count, name)
	}
}

func TestOpenFinishesWhatAKilledProcessBegan(t *testing.T) {
	begun := map[string]func(t *testing.T, path string){
		"the directories are there": func(t *testing.T, path string) {
			require.NoError(t, os.MkdirAll(filepath.Join(path, "journal"), 0o700))
			require.NoError(t, os.MkdirAll(filepath.Join(path, "shared"), 0o700))
		},
		"shared is mounted, and not a shared mount": func(t *testing.T, path string) {
			shared := filepath.Join(path, "shared")
			require.NoError(t, os.MkdirAll(shared, 0o700))
			require.NoError(t, unix.Mount("tmpfs", shared, "tmpfs", 0, "mode=0711"))
			require.NoError(t, os.Mkdir(filepath.Join(shared, "live"), 0o700))
		},
		"all but the propagation": func(t *testing.T, path string) {
			_, err := Open(path)
			require.NoError(t, err)
			require.NoError(t, unix.Mount("", filepath.Join(path, "shared"), "", unix.MS_PRIVATE, ""))
		},
	}
	for name, begin := range begun {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			begin(t, path)
			d, err := Open(path)
			require.NoError(t, err)
			mounts := mountPoints(t, path)
			require.Len(t, mounts, 2)
			require.Equal(t, 1, mounts["shared"].count)
			require.Contains(t, mounts["shared"].propagation, "shared:")
			require.Equal(t, os.FileMode(0o711), mode(t, d.Live()))
			require.Equal(t, os.FileMode(0o711), mode(t, d.Channel()))
			require.Equal(t, os.FileMode(0o700), mode(t, filepath.Join(path, "journal")))
		})
	}
}

// A container's root with CAP_SYS_ADMIN can change the shared file system's options for the whole node: the next
// start gives it its own again.
func TestOpenAfterAContainerHasRemounted(t *testing.T) {
	path := newPath(t)
	dir, err := Open(path)
	require.NoError(t, err)
	shared := filepath.Join(path, "shared")
	for name, remount := range map[string]func() error{
		"read-only": func() error { return unix.Mount("", shared, "", unix.MS_REMOUNT|unix.MS_RDONLY, "") },
		"few files": func() error { return unix.Mount("", shared, "", unix.MS_REMOUNT, "nr_inodes=5") },
	} {
		require.NoError(t, remount(), name)
		_, err = Open(path)
		require.NoError(t, err, name)
		require.NoError(t, os.Mkdir(filepath.Join(dir.Channel(), name), 0o711), name)
		var fs unix.Statfs_t
		require.NoError(t, unix.Statfs(shared, &fs))
		require.Greater(t, fs.Files, uint64(100), name)
	}
}
