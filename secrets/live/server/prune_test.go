package server

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

// Files that nobody has open fill no directory's bound, however many names a secret's fields get in time.
func TestOldNamesAreForgotten(t *testing.T) {
	r := run(t)
	p := r.dial("f")
	p.declare("a")
	for version := range maxNodes/wire.MaxFields + 1 {
		var kv []string
		for i := range wire.MaxFields {
			kv = append(kv, fmt.Sprintf("folder%d/%d", version, i), "x")
		}
		must.Eq(t, "", p.set("a", kv...))
		held, err := unix.Open(filepath.Join(p.at("a"), kv[0]), unix.O_RDONLY, 0)
		must.NoError(t, err)
		defer unix.Close(held)
		for i := 0; i < len(kv); i += 2 {
			path := filepath.Join(p.at("a"), kv[i])
			begin := time.Now()
			for unix.Lstat(path, &unix.Stat_t{}) == unix.ENFILE { // the kernel is asked each second
				must.Less(t, 10*time.Second, time.Since(begin), must.Sprint(path))
				time.Sleep(10 * time.Millisecond)
			}
		}
		got, err := readFD(held)
		must.NoError(t, err)
		must.Eq(t, "x", got)
	}
}

// A directory has a bound of what the kernel refers to, by files that are held open for example. It is no other's.
func TestNodesAreBounded(t *testing.T) {
	s := newStore(func(string) {})
	f := &filesystem{refuse: refuse{fuse.NewDefaultRawFileSystem()}, store: s}
	c := &conn{name: "f", news: make(chan struct{}, 1), out: make(chan wire.Message, queueLen)}
	for _, dir := range []string{"a", "b"} {
		must.NoError(t, s.declare(c, wire.Directory{Name: dir, Mode: 0o400, StaleMS: 3600_000}))
	}
	set := func(dir string, version int) {
		d := s.dirs[s.entry(c, dir)]
		var names []string
		for i := range wire.MaxFields {
			names = append(names, fmt.Sprintf("%d-%d", version, i))
		}
		d.current, d.looked = testVersion(append(names, "folder/x")...), time.Now()
	}
	lookup := func(dir, name string) fuse.Status {
		header := &fuse.InHeader{NodeId: s.dirs[s.entry(c, dir)].node}
		return f.Lookup(nil, header, name, &fuse.EntryOut{})
	}
	set("a", 0)
	set("b", 0)
	fits := 0
	for version := range 5 {
		set("a", version)
		for i := range wire.MaxFields {
			if lookup("a", fmt.Sprintf("%d-%d", version, i)) == fuse.OK {
				fits++
			}
		}
	}
	must.Eq(t, maxNodes-1, fits) // and the directory itself
	must.Eq(t, fuse.Status(syscall.ENFILE), lookup("a", "4-4095"))
	must.Eq(t, fuse.Status(syscall.ENFILE), lookup("a", "folder"))
	must.Eq(t, fuse.ENOENT, lookup("a", "made-up"))
	must.Eq(t, fuse.OK, lookup("b", "0-0"))
	must.Eq(t, wire.Full, c.reads[0].Result)

	// What is forgotten makes room.
	for key, n := range s.nodes.byKey {
		if key.v != nil && key.dir.Name == "a" {
			f.Forget(n.id, 1)
			break
		}
	}
	must.Eq(t, fuse.OK, lookup("a", "4-4095"))

	// Of the crowded directory the old names go, and all in one that is gone.
	must.Len(t, maxNodes-2, s.old())
	for _, dir := range []string{"a", "b"} {
		s.nodes.byKey[nodeKey{dir: s.dirs[s.entry(c, dir)]}].lookups++
	}
	s.withdraw(c, "b")
	must.Len(t, maxNodes-2+1, s.old())
	s.withdraw(c, "a")
	must.Len(t, maxNodes-1+1, s.old())
}
