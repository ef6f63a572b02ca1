package guard

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// tree is an allocation's directory with a task in it, and a file of the host's beside it.
func tree(t *testing.T) (allocDir, taskDir, host string) {
	t.Helper()
	base := t.TempDir()
	allocDir, host = filepath.Join(base, "allocs", "a"), filepath.Join(base, "host")
	taskDir = filepath.Join(allocDir, "web")
	for _, dir := range []string{host, filepath.Join(taskDir, "local", "data"), filepath.Join(allocDir, "alloc", "logs"), filepath.Join(allocDir, "alloc", "data")} {
		must.NoError(t, os.MkdirAll(dir, 0o777))
	}
	must.NoError(t, os.WriteFile(filepath.Join(host, "secret"), []byte("the host's"), 0o600))
	must.NoError(t, os.WriteFile(filepath.Join(taskDir, "local", "file"), nil, 0o600))
	return allocDir, taskDir, host
}

func engineRoot() (uid, gid int, err error) { return 0, 0, nil }

// A source that is made is the engine's root's, who need not be the host's.
func TestMadeSourcesOwner(t *testing.T) {
	allocDir, taskDir, _ := tree(t)
	source, err := Resolve(allocDir, filepath.Join(taskDir, "local", "a", "b"), func() (int, int, error) { return 4242, 4343, nil })
	must.NoError(t, err)
	must.NoError(t, source.File.Close())
	for dir, want := range map[string]uint32{"a": 4242, "a/b": 4242, "data": 0} {
		var st unix.Stat_t
		must.NoError(t, unix.Stat(filepath.Join(taskDir, "local", dir), &st))
		must.EqOp(t, want, st.Uid)
	}
}

func TestResolve(t *testing.T) {
	allocDir, taskDir, host := tree(t)
	local := filepath.Join(taskDir, "local")
	for name, target := range map[string]string{
		"inside":         "data",
		"inside-by-name": filepath.Join(local, "data"),
		"up":             "../../alloc/data",
		"out":            host,
		"out-relative":   "../../../../host",
		"out-chain":      "out",
		"root":           "/",
		"magic":          "/proc/self/root/etc",
		"cwd":            "/proc/self/cwd",
		"dangling":       "nowhere",
		"dangling-out":   filepath.Join(host, "nowhere"),
		"loop":           "loop",
		"beside":         allocDir + "b",
	} {
		must.NoError(t, os.Symlink(target, filepath.Join(local, name)))
	}
	must.NoError(t, os.Mkdir(allocDir+"b", 0o755))
	for path, want := range map[string]string{
		"data":                "web/local/data",
		"file":                "web/local/file",
		".":                   "web/local",
		"../..":               ".",
		"../../alloc":         "alloc",
		"inside":              "web/local/data",
		"inside-by-name":      "web/local/data",
		"up":                  "alloc/data",
		"new":                 "web/local/new",
		"new/deep/er":         "web/local/new/deep/er",
		"inside/new":          "web/local/data/new",
		"out":                 "",
		"out/secret":          "",
		"out/new":             "",
		"out-relative":        "",
		"out-relative/secret": "",
		"out-chain":           "",
		"root":                "",
		"root/etc":            "",
		"magic":               "",
		"cwd":                 "",
		"dangling":            "",
		"dangling/x":          "",
		"dangling-out":        "",
		"dangling-out/x":      "",
		"loop":                "",
		"beside":              "",
		"file/x":              "",
		"../../..":            "",
		"../../../../host":    "",
	} {
		source, err := Resolve(allocDir, filepath.Join(local, path), engineRoot)
		if want == "" {
			must.Error(t, err, must.Sprint(path))
			continue
		}
		must.NoError(t, err, must.Sprint(path))
		must.EqOp(t, want, source.Rel, must.Sprint(path))
		must.NoError(t, source.File.Close())
	}
	left, err := os.ReadDir(host)
	must.NoError(t, err)
	must.Len(t, 1, left, must.Sprint("something was made outside"))

	_, err = Resolve(allocDir, filepath.Join(local, "absent"), nil)
	must.ErrorIs(t, err, os.ErrNotExist)
	for _, out := range []string{"out", "out-relative", "root", "magic", "beside"} {
		_, err = Resolve(allocDir, filepath.Join(local, out), engineRoot)
		must.ErrorIs(t, err, ErrOutside, must.Sprint(out))
	}
}

// Somebody swaps a directory for a symlink out of the allocation, over and over, while sources are resolved
// and pinned: none of the pins is ever of what is outside.
func TestResolveAgainstASwapper(t *testing.T) {
	allocDir, taskDir, host := tree(t)
	data := filepath.Join(taskDir, "local", "data")
	link := filepath.Join(taskDir, "local", "link")
	must.NoError(t, os.Symlink(host, link))
	must.NoError(t, os.WriteFile(filepath.Join(data, "secret"), []byte("the task's"), 0o600))
	swapped := swapping(t, data, link)

	pinsRoot := filepath.Join(t.TempDir(), "binds")
	var inside, outside int
	for i := 0; i < 2000 || inside == 0 || outside == 0; i++ {
		must.Less(t, 1000000, i, must.Sprint("the swapper does not swap"))
		maker := Owner(engineRoot)
		if i%2 == 0 {
			maker = nil
		}
		source, err := Resolve(allocDir, data, maker)
		if err != nil {
			outside++
			continue
		}
		inside++
		pins, err := NewPins(pinsRoot)
		must.NoError(t, err)
		pinned, err := pins.Add(source.File)
		must.NoError(t, err)
		content, err := os.ReadFile(filepath.Join(pinned, "secret"))
		must.NoError(t, err)
		must.EqOp(t, "the task's", string(content))
		must.NoError(t, source.File.Close())
		pins.Release()
	}
	must.Positive(t, swapped())
}

// swapping exchanges two names all the time, until the test ends.
func swapping(t *testing.T, a, b string) (swaps func() int) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				done <- n
				return
			default:
			}
			if unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE) == nil {
				n++
			}
		}
	}()
	ended := false
	end := func() int {
		if ended {
			return 0
		}
		ended = true
		close(stop)
		return <-done
	}
	t.Cleanup(func() { end() })
	return end
}
