package mountinfo

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	got, err := parse(strings.NewReader(
		"22 27 0:21 / /proc rw,relatime - proc proc rw\n" +
			`42 27 254:0 /a\040b /var\134lib rw shared:1 master:2 - fuse.live live ro,user_id=0` + "\n"))
	must.NoError(t, err)
	must.Eq(t, []Mount{
		{Device: "0:21", Root: "/", Point: "/proc", Type: "proc"},
		{Device: "254:0", Root: "/a b", Point: `/var\lib`, Type: "fuse.live", Shared: true},
	}, got)

	_, err = parse(strings.NewReader("nonsense\n"))
	must.Error(t, err)
}

func TestEachSeesThisNamespace(t *testing.T) {
	n := 0
	must.NoError(t, Each(func(m Mount) {
		if m.Point == "/proc" && m.Type == "proc" {
			n++
		}
	}))
	must.Positive(t, n)
}

// procDir is a /proc as it is read while processes end.
type procDir struct {
	t   *testing.T
	dir string
}

// add adds a process. One without a mount ends before its mounts are read.
func (p procDir) add(pid, namespace, point string) {
	dir := filepath.Join(p.dir, pid)
	must.NoError(p.t, os.MkdirAll(filepath.Join(dir, "ns"), 0o700))
	must.NoError(p.t, os.Symlink(namespace, filepath.Join(dir, "ns/mnt")))
	if point != "" {
		must.NoError(p.t, os.WriteFile(filepath.Join(dir, "mountinfo"), []byte("1 2 0:5 / "+point+" rw - fuse.live live rw\n"), 0o600))
	}
}

func (p procDir) points() (points []string, err error) {
	err = each(p.dir, func(m Mount) { points = append(points, m.Point) })
	return points, err
}

func TestAProcessThatEndsHidesNoNamespace(t *testing.T) {
	p := procDir{t, t.TempDir()}
	p.add("1", "mnt:[1]", "/host")
	p.add("2", "mnt:[2]", "") // ends
	p.add("3", "mnt:[2]", "/container")
	p.add("4", "mnt:[2]", "/container")
	must.NoError(t, os.Mkdir(filepath.Join(p.dir, "sys"), 0o700))
	points, err := p.points()
	must.NoError(t, err)
	must.Eq(t, []string{"/host", "/container"}, points)
}

// A lack of descriptors, for example, must not look as if nothing was mounted.
func TestWhatCannotBeReadIsAnError(t *testing.T) {
	p := procDir{t, t.TempDir()}
	p.add("1", "mnt:[1]", "")
	must.NoError(t, os.Mkdir(filepath.Join(p.dir, "1/mountinfo"), 0o700))
	_, err := p.points()
	must.ErrorIs(t, err, unix.EISDIR)

	_, err = procDir{t, filepath.Join(p.dir, "none")}.points()
	must.ErrorIs(t, err, fs.ErrNotExist)
}

func TestWithin(t *testing.T) {
	for root, want := range map[string]bool{"/a": true, "/a/tls": true, "/": false, "/ab": false, "/b/a": false} {
		must.Eq(t, want, Mount{Root: root}.Within("/a"), must.Sprint(root))
	}
}

func FuzzParse(f *testing.F) {
	f.Add("22 27 0:21 / /proc rw,relatime - proc proc rw")
	f.Add(`1 2 3 \040 \ a b - `)
	f.Fuzz(func(t *testing.T, s string) { _, _ = parse(strings.NewReader(s)) })
}
