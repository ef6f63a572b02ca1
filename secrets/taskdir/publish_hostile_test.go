package taskdir

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// TestPublishHostile: a task plants what it can in its secrets directory (S5). Nothing outside changes,
// Publish does not hang, and where it succeeds the files are right.
func TestPublishHostile(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	for name, plant := range map[string]func(t *testing.T, dir string){
		"data out":       func(t *testing.T, dir string) { swapLink(t, outside, filepath.Join(dir, "..data")) },
		"data up":        func(t *testing.T, dir string) { swapLink(t, "..", filepath.Join(dir, "..data")) },
		"data to itself": func(t *testing.T, dir string) { swapLink(t, "..data", filepath.Join(dir, "..data")) },
		"data a file": func(t *testing.T, dir string) {
			must.NoError(t, os.RemoveAll(filepath.Join(dir, "..data")))
			must.NoError(t, os.WriteFile(filepath.Join(dir, "..data"), nil, 0o666))
		},
		"data a directory": func(t *testing.T, dir string) {
			must.NoError(t, os.RemoveAll(filepath.Join(dir, "..data")))
			must.NoError(t, os.MkdirAll(filepath.Join(dir, "..data", "x"), 0o777))
		},
		"data a FIFO": func(t *testing.T, dir string) {
			must.NoError(t, os.RemoveAll(filepath.Join(dir, "..data")))
			must.NoError(t, unix.Mkfifo(filepath.Join(dir, "..data"), 0o666))
		},
		"set a FIFO": func(t *testing.T, dir string) {
			must.NoError(t, unix.Mkfifo(filepath.Join(dir, "..set-000000000007"), 0o666))
			swapLink(t, "..set-000000000007", filepath.Join(dir, "..data"))
		},
		"set a link out": func(t *testing.T, dir string) {
			must.NoError(t, os.Symlink(outside, filepath.Join(dir, "..set-000000000007")))
			swapLink(t, "..set-000000000007", filepath.Join(dir, "..data"))
		},
		"the next set a link out": func(t *testing.T, dir string) {
			must.NoError(t, os.Symlink(outside, filepath.Join(dir, "..set-000000000002")))
		},
		"the next set a directory": func(t *testing.T, dir string) {
			must.NoError(t, os.MkdirAll(filepath.Join(dir, "..set-000000000002", "f"), 0o777))
		},
		"the highest set": func(t *testing.T, dir string) {
			must.NoError(t, os.Mkdir(filepath.Join(dir, setName(lastSet)), 0o777))
			swapLink(t, setName(lastSet), filepath.Join(dir, "..data"))
		},
		"a number too high": func(t *testing.T, dir string) {
			must.NoError(t, os.Mkdir(filepath.Join(dir, "..set-99999999999999999999999"), 0o777))
			swapLink(t, "..set-99999999999999999999999", filepath.Join(dir, "..data"))
		},
		"the link's temporary name a directory": func(t *testing.T, dir string) {
			must.NoError(t, os.MkdirAll(filepath.Join(dir, "..link", "x"), 0o777))
		},
		"a file's name a link out": func(t *testing.T, dir string) { swapLink(t, victim, filepath.Join(dir, "f")) },
		"a file's name a file": func(t *testing.T, dir string) {
			must.NoError(t, os.RemoveAll(filepath.Join(dir, "f")))
			must.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("edited in place"), 0o666))
		},
		"a file's name a directory": func(t *testing.T, dir string) {
			must.NoError(t, os.RemoveAll(filepath.Join(dir, "f")))
			must.NoError(t, os.MkdirAll(filepath.Join(dir, "f", "x"), 0o777))
		},
		"everything gone": func(t *testing.T, dir string) {
			for _, name := range listing(t, dir) {
				must.NoError(t, os.RemoveAll(filepath.Join(dir, name)))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			must.NoError(t, os.WriteFile(victim, []byte("victim"), 0o600))
			for _, reopen := range []bool{false, true} {
				dir := secretsDir(t)
				p := publisher(t, dir)
				must.NoError(t, p.Publish(setOf(map[string]string{"f": "1", "d/x": "1"}), -1, -1))
				plant(t, dir)
				if reopen {
					p = publisher(t, dir)
				}
				for _, text := range []string{"2", "3"} {
					err := p.Publish(setOf(map[string]string{"f": text, "d/x": text}), 1234, 1234)
					must.NoError(t, err)
					must.Eq(t, text, read(t, dir, "f"))
					must.Eq(t, text, read(t, dir, "d/x"))
				}
				must.NoError(t, p.Remove())
				must.SliceEmpty(t, listing(t, dir))
			}
			must.Eq(t, []string{"victim"}, listing(t, outside))
			must.Eq(t, "victim", read(t, outside, "victim"))
			var st unix.Stat_t
			must.NoError(t, unix.Stat(victim, &st))
			must.Eq(t, uint32(0), st.Uid)
			must.NoError(t, unix.Stat(outside, &st))
			must.Eq(t, uint32(0), st.Uid)
		})
	}
}

func swapLink(t testing.TB, target, name string) {
	t.Helper()
	must.NoError(t, os.RemoveAll(name))
	must.NoError(t, os.Symlink(target, name))
}

// TestPublishRace: a task keeps exchanging everything while sets are published. Whatever comes of its own
// files, nothing outside changes and nothing hangs.
func TestPublishRace(t *testing.T) {
	outside, dir := t.TempDir(), secretsDir(t)
	p := publisher(t, dir)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			entries, _ := os.ReadDir(dir)
			for _, e := range entries {
				name := filepath.Join(dir, e.Name())
				_ = os.Rename(name, filepath.Join(dir, "moved"))
				_ = os.RemoveAll(filepath.Join(dir, "moved"))
				_ = os.Symlink(outside, name)
			}
		}
	})
	published, spoilt := 0, 0
	for i := 0; (published < 20 || spoilt < 20) && i < 2000; i++ {
		if p.Publish(setOf(map[string]string{"f": fmt.Sprint(i), "d/x": "y"}), 1234, 1234) == nil {
			published++
		} else {
			spoilt++
			runtime.Gosched()
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d published, %d spoilt", published, spoilt)
	must.Positive(t, spoilt, must.Sprint("the two never met"))
	must.SliceEmpty(t, listing(t, outside))
	var st unix.Stat_t
	must.NoError(t, unix.Stat(outside, &st))
	must.Eq(t, uint32(0), st.Uid)
}

// TestPublisherTrustsNothing: what a task can exchange between two steps, looked at one by one.
func TestPublisherTrustsNothing(t *testing.T) {
	dir := secretsDir(t)
	p := publisher(t, dir)
	must.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666))
	_, err := p.names("fifo", 1) // and it does not wait for a writer
	must.ErrorIs(t, err, unix.ENOTDIR)

	for name, make := range map[string]func(path string){
		"somebody's":     func(path string) { must.NoError(t, os.Chown(path, 1234, 1234)) },
		"world-writable": func(path string) { must.NoError(t, os.Chmod(path, 0o777)) },
		"not empty":      func(path string) { must.NoError(t, os.WriteFile(filepath.Join(path, "x"), nil, 0o600)) },
		"ours":           func(string) {},
	} {
		path := filepath.Join(dir, name)
		must.NoError(t, os.Mkdir(path, 0o700))
		make(path)
		root, err := os.OpenRoot(path)
		must.NoError(t, err)
		must.Eq(t, name == "ours", isOurs(root) == nil, must.Sprint(name))
		must.NoError(t, root.Close())
	}
}
