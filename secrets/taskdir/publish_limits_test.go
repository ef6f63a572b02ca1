package taskdir

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// A task filled its directory with links: that slows nothing down but itself (S8).
func TestPublishAmongManyNames(t *testing.T) {
	dir := tmpfs(t, "size=256m")
	p := publisher(t, dir)
	must.NoError(t, p.Publish(setOf(map[string]string{"old": "1", "f": "1"}), -1, -1))
	for i := range 300_000 {
		must.NoError(t, os.Symlink("..data/x", filepath.Join(dir, fmt.Sprint("link-", i))))
	}
	for range 3 {
		before, start := allocated(), time.Now()
		for round := range 3 {
			must.NoError(t, p.Publish(setOf(map[string]string{"f": fmt.Sprint(round)}), -1, -1))
			must.Eq(t, fmt.Sprint(round), read(t, dir, "f"))
		}
		must.Less(t, 8<<20, allocated()-before)
		must.Less(t, 3*time.Second, time.Since(start)) // for three; alone it takes some 20 ms
		must.NoError(t, p.Close())
		p = publisher(t, dir)
	}
	// What is ours goes all the same: found by its name, wherever it is among the others.
	_, err := os.Lstat(filepath.Join(dir, "old"))
	must.ErrorIs(t, err, os.ErrNotExist)
	sets, err := filepath.Glob(filepath.Join(dir, setPrefix+"*"))
	must.NoError(t, err)
	must.LessEq(t, 2, len(sets))
	must.NoError(t, p.Remove())
	sets, err = filepath.Glob(filepath.Join(dir, "..*"))
	must.NoError(t, err)
	must.SliceEmpty(t, sets)
}

// What a task puts in the place of ours is removed as far as it is of a set's size; then the publication
// fails, or goes on beside it, and does not take the plugin's time, memory or descriptors.
func TestPublishOverLargeTrees(t *testing.T) {
	deep := func(t *testing.T, at string) {
		must.NoError(t, os.Mkdir(at, 0o777))
		old, err := os.Getwd()
		must.NoError(t, err)
		must.NoError(t, os.Chdir(at))
		defer func() { must.NoError(t, os.Chdir(old)) }()
		for range 500 {
			must.NoError(t, os.Mkdir("d", 0o777))
			must.NoError(t, os.Chdir("d"))
		}
	}
	wide := func(t *testing.T, at string) {
		must.NoError(t, os.Mkdir(at, 0o777))
		for i := range 2 * maxRemoved {
			must.NoError(t, os.Symlink("x", filepath.Join(at, fmt.Sprint(i))))
		}
	}
	for name, plant := range map[string]func(*testing.T, string){"deep": deep, "wide": wide} {
		for _, place := range []string{"f", "..link", "..data", setName(2)} {
			t.Run(name+" at "+place, func(t *testing.T) {
				dir := tmpfs(t, "size=64m")
				p := publisher(t, dir)
				must.NoError(t, p.Publish(setOf(map[string]string{"f": "1"}), -1, -1))
				_ = os.Remove(filepath.Join(dir, place))
				plant(t, filepath.Join(dir, place))
				before := allocated()
				for range 3 {
					if err := p.Publish(setOf(map[string]string{"f": "2"}), -1, -1); err != nil {
						must.ErrorIs(t, err, errTooMuch)
					} else {
						must.Eq(t, "2", read(t, dir, "f"))
					}
				}
				_ = p.Remove()
				must.Less(t, 64<<20, allocated()-before)
				must.Eq(t, "", strings.Join(values(t, dir), " "))
			})
		}
	}
}

// values are the files of a directory that hold something.
func values(t *testing.T, dir string) (all []string) {
	entries, err := os.ReadDir(dir)
	must.NoError(t, err)
	for _, e := range entries {
		if b, err := os.ReadFile(filepath.Join(dir, e.Name(), "f")); err == nil && len(b) > 0 {
			all = append(all, e.Name())
		}
	}
	return all
}

// allocated is what this process has ever allocated, in bytes.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
