package beneath

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// tree is a directory with a file in it, and a secret outside.
func tree(t *testing.T) (dir, outside string) {
	t.Helper()
	dir, outside = t.TempDir(), t.TempDir()
	must.NoError(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
	must.NoError(t, os.WriteFile(filepath.Join(dir, "a", "b", "f"), []byte("inside"), 0o600))
	must.NoError(t, os.MkdirAll(filepath.Join(outside, "b"), 0o755))
	must.NoError(t, os.WriteFile(filepath.Join(outside, "b", "f"), []byte("outside"), 0o600))
	return dir, outside
}

func TestOpen(t *testing.T) {
	dir, outside := tree(t)
	link := func(target, name string) { must.NoError(t, os.Symlink(target, filepath.Join(dir, name))) }
	link(outside, "absolute")
	link("../"+filepath.Base(outside), "relative")
	link("a", "within")
	link("b/f", "a/file")
	link("/proc/self/root", "magic")
	link("/proc/self/fd/0", "fd")
	must.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))

	for _, rel := range []string{"a/b/f", "./a/../a/b/f"} {
		f, err := OpenIn(dir, rel, os.O_RDONLY)
		must.NoError(t, err)
		content, err := io.ReadAll(f)
		must.NoError(t, err)
		must.EqOp(t, "inside", string(content))
		must.NoError(t, f.Close())
	}
	for rel, want := range map[string]error{
		"absolute/b/f":             unix.ELOOP,
		"relative/b/f":             unix.ELOOP,
		"within/b/f":               unix.ELOOP,
		"a/file":                   unix.ELOOP,
		"magic/etc/hostname":       unix.ELOOP,
		"fd":                       unix.ELOOP,
		"a/b/f/x":                  unix.ENOTDIR,
		"a/none":                   os.ErrNotExist,
		"..":                       ErrOutside,
		"../" + filepath.Base(dir): ErrOutside,
		"a/../../x":                ErrOutside,
		"/etc/hostname":            ErrOutside,
		"":                         ErrOutside,
	} {
		_, err := OpenIn(dir, rel, os.O_RDONLY|unix.O_NONBLOCK)
		must.ErrorIs(t, err, want, must.Sprint(rel))
	}
	f, err := OpenIn(dir, "fifo", os.O_RDONLY|unix.O_NONBLOCK)
	must.NoError(t, err)
	must.NoError(t, f.Close())
	_, err = OpenIn(filepath.Join(dir, "within"), "b/f", os.O_RDONLY)
	must.Error(t, err, must.Sprint("the directory itself is a link"))
}

// What was opened is below the directory, whatever others exchange meanwhile: a directory on the way for a link out,
// the file for a link.
func TestOpenAgainstASwapper(t *testing.T) {
	dir, outside := tree(t)
	must.NoError(t, os.Symlink(outside, filepath.Join(dir, "out")))
	must.NoError(t, os.Symlink(filepath.Join(outside, "b", "f"), filepath.Join(dir, "a", "b", "g")))
	// By descriptors: a path through what is exchanged just then would bring the file from outside in.
	top, err := os.Open(dir)
	must.NoError(t, err)
	defer top.Close()
	bottom, err := os.Open(filepath.Join(dir, "a", "b"))
	must.NoError(t, err)
	defer bottom.Close()
	stop := make(chan struct{})
	var swaps sync.WaitGroup
	for _, pair := range []struct {
		in   *os.File
		a, b string
	}{{top, "a", "out"}, {bottom, "f", "g"}} {
		swaps.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = unix.Renameat2(int(pair.in.Fd()), pair.a, int(pair.in.Fd()), pair.b, unix.RENAME_EXCHANGE)
				}
			}
		})
	}
	defer swaps.Wait()
	defer close(stop)

	opened, refused := 0, 0
	for i := 0; opened < 200 || refused < 200; i++ {
		must.Less(t, 5000000, i)
		f, err := OpenIn(dir, "a/b/f", os.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			must.True(t, errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EAGAIN) || errors.Is(err, os.ErrNotExist), must.Sprint(err))
			refused++
			continue
		}
		content, err := io.ReadAll(f)
		must.NoError(t, err)
		must.NoError(t, f.Close())
		must.EqOp(t, "inside", string(content))
		opened++
	}
}
