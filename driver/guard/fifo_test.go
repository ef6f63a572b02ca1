package guard

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// A log FIFO is opened only as Nomad made it (CVE-2026-6959).
func TestOpenFIFO(t *testing.T) {
	for name, change := range map[string]func(allocDir, fifo, host string) error{
		"as Nomad made it": func(string, string, string) error { return nil },
		"a symlink to a file of the host": func(_, fifo, host string) error {
			return errors.Join(os.Remove(fifo), os.Symlink(filepath.Join(host, "secret"), fifo))
		},
		"a symlink to the FIFO": func(_, fifo, _ string) error {
			return errors.Join(os.Rename(fifo, fifo+"2"), os.Symlink(fifo+"2", fifo))
		},
		"a file": func(_, fifo, _ string) error { return errors.Join(os.Remove(fifo), os.WriteFile(fifo, nil, 0o600)) },
		"a link": func(_, fifo, host string) error {
			return errors.Join(os.Remove(fifo), os.Link(filepath.Join(host, "secret"), fifo))
		},
		"another's FIFO": func(_, fifo, _ string) error {
			return errors.Join(os.Remove(fifo), unix.Mkfifo(fifo, 0o666), os.Chown(fifo, 4242, 4242))
		},
		"a FIFO with two names": func(_, fifo, _ string) error { return os.Link(fifo, fifo+"2") },
		"logs is a symlink": func(allocDir, _, _ string) error {
			logs := filepath.Join(allocDir, "alloc", "logs")
			return errors.Join(os.Rename(logs, logs+"2"), os.Symlink("logs2", logs))
		},
		"alloc is a symlink": func(allocDir, _, _ string) error {
			alloc := filepath.Join(allocDir, "alloc")
			return errors.Join(os.Rename(alloc, alloc+"2"), os.Symlink("alloc2", alloc))
		},
		"gone": func(_, fifo, _ string) error { return os.Remove(fifo) },
	} {
		allocDir, _, host := tree(t)
		fifo := filepath.Join(allocDir, "alloc", "logs", ".web.stdout.fifo")
		must.NoError(t, unix.Mkfifo(fifo, 0o600))
		must.NoError(t, change(allocDir, fifo, host), must.Sprint(name))
		f, err := OpenFIFO(allocDir, fifo)
		if name == "as Nomad made it" {
			must.NoError(t, err)
			must.NoError(t, f.Close())
			continue
		}
		must.Error(t, err, must.Sprint(name))
		must.Eq(t, name == "gone", errors.Is(err, os.ErrNotExist), must.Sprint(name))
	}
	allocDir, _, host := tree(t)
	_, err := OpenFIFO(allocDir, filepath.Join(host, "secret"))
	must.ErrorIs(t, err, ErrOutside)
}

// Somebody swaps the FIFO for a symlink, over and over: what is opened is the FIFO, or nothing, and who writes
// to a pin of it writes to the FIFO.
func TestOpenFIFOAgainstASwapper(t *testing.T) {
	allocDir, _, host := tree(t)
	logs := filepath.Join(allocDir, "alloc", "logs")
	fifo, link := filepath.Join(logs, ".web.stdout.fifo"), filepath.Join(logs, "link")
	must.NoError(t, unix.Mkfifo(fifo, 0o600))
	must.NoError(t, os.Symlink(filepath.Join(host, "secret"), link))
	reader, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	must.NoError(t, err)
	defer reader.Close()
	swapped := swapping(t, fifo, link)
	root := filepath.Join(t.TempDir(), "binds")
	opened := 0
	for i := 0; i < 2000 || opened == 0; i++ {
		must.Less(t, 1000000, i)
		f, err := OpenFIFO(allocDir, fifo)
		if err != nil {
			continue
		}
		opened++
		pins, err := NewPins(root)
		must.NoError(t, err)
		pinned, err := pins.Add(f)
		must.NoError(t, err)
		for _, open := range []func() (*os.File, error){
			func() (*os.File, error) { return OpenWriter(f) },
			func() (*os.File, error) { return os.OpenFile(pinned, os.O_WRONLY, 0) }, // as a helper of the wrapped driver's
		} {
			w, err := open()
			must.NoError(t, err)
			_, err = w.WriteString("x")
			must.NoError(t, err)
			must.NoError(t, w.Close())
			_, err = reader.Read(make([]byte, 1))
			must.NoError(t, err)
		}
		must.NoError(t, f.Close())
		pins.Release()
	}
	must.Positive(t, swapped())
	content, err := os.ReadFile(filepath.Join(host, "secret"))
	must.NoError(t, err)
	must.EqOp(t, "the host's", string(content))
}
