package guard

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

func TestVolume(t *testing.T) {
	const dir = "/allocs/a/web"
	for _, test := range []struct {
		spec, label string
		want        Bind
		refused     string
	}{
		{spec: "local/x:/x", want: Bind{Source: dir + "/local/x", Target: "/x", Create: true}},
		{spec: "../alloc/data:/x:ro", want: Bind{Source: "/allocs/a/alloc/data", Target: "/x", ReadOnly: true, Create: true}},
		{spec: "/allocs/a/./web/../alloc:/x", want: Bind{Source: "/allocs/a/alloc", Target: "/x", Create: true}},
		{spec: "local/x:/x:rw,z", want: Bind{Source: dir + "/local/x", Target: "/x", Relabel: true, Create: true}},
		{spec: "local/x:/x", label: "z", want: Bind{Source: dir + "/local/x", Target: "/x", Relabel: true, Create: true}},
		{spec: "local/x:/x:rslave", want: Bind{Source: dir + "/local/x", Target: "/x", Propagation: "host-to-task", Create: true}},
		{spec: "local/x:/x:ro,private", want: Bind{Source: dir + "/local/x", Target: "/x", ReadOnly: true, Propagation: "private", Create: true}},
		{spec: "local/x:/x:rshared", refused: "enabled = true"},
		{spec: "local/x:/x:rprivat", refused: `"rprivat" is not known`},
		{spec: "local/x", refused: "not <src>:<destination>"},
	} {
		b, err := Volume(dir, test.spec, test.label)
		if test.refused != "" {
			must.ErrorContains(t, err, test.refused)
			continue
		}
		must.NoError(t, err)
		must.Eq(t, test.want, b, must.Sprint(test.spec))
	}
}

func TestLeavesByName(t *testing.T) {
	for source, leaves := range map[string]bool{
		"/allocs/a": false, "/allocs/a/web/local": false, "/allocs/ab": true, "/allocs": true, "/etc": true, "/": true,
		"/allocs/a/..x": true, // not so, but the wrapped driver says so
	} {
		must.Eq(t, leaves, Bind{Source: source}.Leaves("/allocs/a"), must.Sprint(source))
	}
}

func TestLogsInASource(t *testing.T) {
	allocDir := t.TempDir()
	for _, dir := range []string{"alloc/logs", "exec/alloc", "web/alloc/logs"} {
		must.NoError(t, os.MkdirAll(filepath.Join(allocDir, dir), 0o755))
	}
	chroot := filepath.Join(allocDir, "exec", "alloc")
	must.NoError(t, unix.Mount(filepath.Join(allocDir, "alloc"), chroot, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must.NoError(t, unix.Unmount(chroot, unix.MNT_DETACH)) })
	for rel, want := range map[string]struct {
		all   bool
		below string
	}{
		".": {false, "alloc/logs"}, "alloc": {false, "logs"}, "alloc/logs": {true, ""}, "alloc/logs/x": {true, ""},
		"alloc/data": {}, "web": {}, "web/alloc": {}, "web/alloc/logs": {}, "web/local/alloc": {}, "alloc/logsx": {}, "allo": {},
		"exec": {}, "exec/alloc": {false, "logs"}, "exec/alloc/logs": {true, ""}, "exec/alloc/data": {}, "unknown/alloc/logs": {true, ""},
	} {
		all, below := Logs(allocDir, rel)
		must.Eq(t, want.all, all, must.Sprint(rel))
		must.EqOp(t, want.below, below, must.Sprint(rel))
	}
}
