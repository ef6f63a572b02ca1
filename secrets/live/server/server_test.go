package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running is a file server in this process, with a real mount. What needs a process of its own is tested in package live.
type running struct {
	t    *testing.T
	root string
	sock string
	end  func()
	err  error
}

func run(t *testing.T) *running {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("live directories need root: run as root")
	}
	dir := t.TempDir()
	r := &running{t: t, root: filepath.Join(dir, "root"), sock: filepath.Join(dir, "sock")}
	must.NoError(t, os.Mkdir(r.root, 0o700))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.sock, Net: "unix"})
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		r.err = Run(ctx, Config{Root: r.root, Listener: l, Ready: func() { close(ready) }})
	}()
	r.end = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(func() { r.end(); must.NoError(t, r.err) })
	select {
	case <-ready:
	case <-ended:
		t.Fatal(r.err)
	}
	return r
}

// peer is a feeder that says just what it is told to.
type peer struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
	n uint64

	server wire.Server
}

// at is where a directory of the feeder f is.
func (p *peer) at(dir string) string {
	return filepath.Join(p.server.Root, wire.Entry(p.server.Key, "f", dir))
}

func (r *running) dial(feeder string) *peer {
	r.t.Helper()
	c, err := net.Dial("unix", r.sock)
	must.NoError(r.t, err)
	r.t.Cleanup(func() { _ = c.Close() })
	p := &peer{t: r.t, c: c, r: bufio.NewReader(c)}
	must.Eq(r.t, "", p.do(wire.Message{Type: wire.Hello, Feeder: feeder}))
	return p
}

// do gives the answer's error. Reports that come before it are dropped.
func (p *peer) do(m wire.Message, values ...[]byte) string {
	p.t.Helper()
	p.n++
	m.Number = p.n
	must.NoError(p.t, wire.Write(p.c, m, values...))
	for {
		got, _, err := wire.ReadMessage(p.r)
		must.NoError(p.t, err)
		if got.Server != nil {
			p.server = *got.Server
		}
		if got.Type == wire.Answer && got.Number == p.n {
			return got.Error
		}
	}
}

func (p *peer) declare(dir string) {
	p.t.Helper()
	must.Eq(p.t, "", p.do(wire.Message{Type: wire.Declare, Directory: &wire.Directory{Name: dir, Mode: 0o444, StaleMS: 3600_000}}))
}

func (p *peer) set(dir string, kv ...string) string {
	p.t.Helper()
	m := wire.Message{Type: wire.Set, Dir: dir}
	var values [][]byte
	for i := 0; i < len(kv); i += 2 {
		m.Fields = append(m.Fields, wire.Field{Path: kv[i], Size: len(kv[i+1])})
		values = append(values, []byte(kv[i+1]))
	}
	return p.do(m, values...)
}

func readAll(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return readFD(fd)
}

func readFD(fd int) (string, error) {
	var all []byte
	buf := make([]byte, 1<<20)
	for {
		switch n, err := unix.Read(fd, buf); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return "", err
		case n == 0:
			return string(all), nil
		default:
			all = append(all, buf[:n]...)
		}
	}
}

// TestReadersAndChangesAtOnce is for the race detector.
func TestReadersAndChangesAtOnce(t *testing.T) {
	r := run(t)
	p := r.dial("f")
	for _, d := range []string{"a", "b"} {
		p.declare(d)
		must.Eq(t, "", p.set(d, "user", "0", "password", "0"))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for i := range 8 {
		dir := p.at([]string{"a", "b"}[i%2])
		readers.Go(func() {
			for ctx.Err() == nil {
				got, err := readAll(filepath.Join(dir, "user"))
				if err != nil || strings.Trim(got, got[:1]) != "" {
					t.Errorf("%q, %v", got, err)
					return
				}
				_, _ = os.Lstat(filepath.Join(dir, "none"))
				_, _ = os.ReadDir(dir)
			}
		})
	}
	for i := range 200 {
		v := strings.Repeat(fmt.Sprint(i%10), 1+i*97%5000)
		must.Eq(t, "", p.set([]string{"a", "b"}[i%2], "user", v, "password", v))
	}
	cancel()
	readers.Wait()
}

func TestValuesHeldOpenGiveWay(t *testing.T) {
	r := run(t)
	p := r.dial("f")
	p.declare("a")
	big := strings.Repeat("m", 1<<20)
	var kv []string
	for i := range 30 {
		kv = append(kv, fmt.Sprint("f", i), big)
	}
	path := filepath.Join(p.at("a"), "f0")
	var fds []int
	for range 4 {
		must.Eq(t, "", p.set("a", kv...))
		fd, err := unix.Open(path, unix.O_RDONLY, 0)
		must.NoError(t, err)
		fds = append(fds, fd)
	}
	failed := 0
	for i, fd := range fds {
		got, err := readFD(fd)
		if i == len(fds)-1 {
			must.NoError(t, err)
		}
		if err != nil {
			must.ErrorIs(t, err, unix.EIO)
			failed++
		} else {
			must.True(t, got == big)
		}
		must.NoError(t, unix.Close(fd))
	}
	must.Eq(t, 2, failed) // 64 MiB hold two versions of 30
}

// Who keeps most gives way, and not a neighbour who reads an old version to its end.
func TestNobodysValuesGiveWayToAnothers(t *testing.T) {
	s := newStore(func(string) {})
	c := &conn{name: "f"}
	at := time.Now()
	set := func(dir string, mib int) *version {
		at = at.Add(time.Second)
		value := bytes.Repeat([]byte("m"), 1<<20)
		m := wire.Message{Dir: dir}
		for i := range mib {
			m.Fields = append(m.Fields, wire.Field{Path: fmt.Sprint(i), Size: len(value)})
		}
		must.NoError(t, s.set(c, m, mib<<20, bytes.NewReader(bytes.Repeat(value, mib)), at))
		v := s.dirs[s.entry(c, dir)].current
		v.refs++ // somebody has a file of it open
		return v
	}
	for _, dir := range []string{"neighbour", "hostile"} {
		must.NoError(t, s.declare(c, wire.Directory{Name: dir, Mode: 0o400, StaleMS: 3600_000}))
	}
	kept := []*version{set("neighbour", 4), set("neighbour", 4)}
	var hostile []*version
	for range 9 {
		hostile = append(hostile, set("hostile", 8))
	}
	for _, v := range kept {
		must.False(t, v.gone)
	}
	for i, v := range hostile { // with the names, 6 of 8 MiB have room in what the neighbour leaves
		must.Eq(t, i < 3, v.gone, must.Sprint(i))
	}
	for v := range s.versions {
		v.wipe()
	}
}

// Names are counted like values, and a secret with many is refused where there is no room, whatever is in them.
func TestNamesAreCounted(t *testing.T) {
	s := newStore(func(string) {})
	c := &conn{name: "f"}
	m := wire.Message{}
	for i := range wire.MaxFields {
		m.Fields = append(m.Fields, wire.Field{Path: fmt.Sprintf("%04d/%s%s", i, strings.Repeat("n/", wire.MaxDepth-1), strings.Repeat("n", 100))})
	}
	must.NoError(t, wire.CheckFields(m.Fields))
	refusals := 0
	for i := range 5 {
		m.Dir = fmt.Sprint("d", i)
		must.NoError(t, s.declare(c, wire.Directory{Name: m.Dir, Mode: 0o400, StaleMS: 3600_000}))
		if err := s.set(c, m, 0, bytes.NewReader(nil), time.Now()); err != nil {
			must.ErrorContains(t, err, "the bound is 67108864")
			refusals++
		}
	}
	must.Positive(t, refusals)
	// They are true: the heap that they take is about what is counted.
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	v := newVersion(m.Fields, values{}, time.Now())
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("counted %d kB, took %d kB", v.size>>10, (after.HeapAlloc-before.HeapAlloc)>>10)
	must.Less(t, uint64(v.size), after.HeapAlloc-before.HeapAlloc)
	v.wipe()
	runtime.GC()
	runtime.ReadMemStats(&after)
	must.Less(t, before.HeapAlloc+uint64(v.size)/10, after.HeapAlloc)
	runtime.KeepAlive(v)
}

func TestADirectoryThatIsWithdrawnIsGone(t *testing.T) {
	r := run(t)
	p := r.dial("f")
	p.declare("a")
	must.Eq(t, "", p.set("a", "v", "x"))
	dir, err := unix.Open(p.at("a"), unix.O_PATH|unix.O_DIRECTORY, 0)
	must.NoError(t, err)
	defer unix.Close(dir)
	must.Eq(t, "", p.do(wire.Message{Type: wire.Withdraw, Dir: "a"}))
	_, err = unix.Openat(dir, "v", unix.O_RDONLY, 0)
	must.ErrorIs(t, err, unix.ENOENT)
	must.StrContains(t, p.set("a", "v", "x"), "no directory a was declared")
	p.declare("a") // anew: what had the old one open does not get it
	must.Eq(t, "", p.set("a", "v", "y"))
	_, err = unix.Openat(dir, "v", unix.O_RDONLY, 0)
	must.ErrorIs(t, err, unix.ENOENT)
	got, err := readAll(filepath.Join(p.at("a"), "v"))
	must.NoError(t, err)
	must.Eq(t, "y", got)
}

func TestAFeederThatSpeaksNonsenseIsCutOff(t *testing.T) {
	r := run(t)
	for _, nonsense := range []string{"GET / HTTP/1.1\r\n\r\n", strings.Repeat("\xff", 100), "\x00\x00\x00\x02\x00\x00\x00\x00{}"} {
		c, err := net.Dial("unix", r.sock)
		must.NoError(t, err)
		_, _ = c.Write([]byte(nonsense))
		must.NoError(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
		_, err = c.Read(make([]byte, 1))
		must.Error(t, err)
		must.False(t, errors.Is(err, os.ErrDeadlineExceeded))
		must.NoError(t, c.Close())
	}
	p := r.dial("f")
	p.declare("still-here")
}

func TestOrphansStayWhileTheyAreMounted(t *testing.T) {
	r := run(t)
	p := r.dial("f")
	for _, d := range []string{"used", "folder", "unused"} {
		p.declare(d)
		must.Eq(t, "", p.set(d, "tls/v", "x"))
	}
	for _, mounted := range []string{p.at("used"), filepath.Join(p.at("folder"), "tls")} {
		place := filepath.Join(t.TempDir(), "place")
		must.NoError(t, os.Mkdir(place, 0o700))
		must.NoError(t, unix.Mount(mounted, place, "", unix.MS_BIND, ""))
		t.Cleanup(func() { _ = unix.Unmount(place, unix.MNT_DETACH) })
	}
	device, err := deviceOf(r.root)
	must.NoError(t, err)

	s := newStore(func(string) {})
	s.key = p.server.Key
	now := time.Now()
	gone := &conn{name: "f"}
	for _, d := range []string{"used", "folder", "unused"} {
		must.NoError(t, s.declare(gone, wire.Directory{Name: d, Mode: 0o400, StaleMS: 1000}))
	}
	must.SliceEmpty(t, s.orphans(now.Add(time.Hour)))
	s.leave(gone, now)
	must.SliceEmpty(t, s.orphans(now.Add(orphanAfter/2)))
	orphans := s.orphans(now.Add(2 * orphanAfter))
	must.Len(t, 3, orphans)
	must.NoError(t, s.removeUnused(orphans, device))
	must.MapContainsKey(t, s.dirs, s.entry(gone, "used"))
	must.MapContainsKey(t, s.dirs, s.entry(gone, "folder"))
	must.MapNotContainsKey(t, s.dirs, s.entry(gone, "unused"))
	for _, d := range []string{"used", "folder"} { // they came back
		must.NoError(t, s.declare(gone, wire.Directory{Name: d, Mode: 0o400}))
	}
	must.SliceEmpty(t, s.orphans(now.Add(time.Hour)))
}

func TestDockersDaemonSeesAName(t *testing.T) {
	r := run(t)
	p := r.dial("f")
	p.declare("a")
	must.Eq(t, "", p.set("a", "v", "x"))
	dir := p.at("a")
	names, err := os.ReadDir(dir)
	must.NoError(t, err)
	must.SliceEmpty(t, names)
	done := make(chan struct{})
	go func() { // the thread ends with the goroutine that has locked it
		defer close(done)
		lockThread()
		if !errors.Is(unix.Prctl(unix.PR_SET_NAME, uintptrOf("dockerd\x00"), 0, 0, 0), nil) {
			t.Error("cannot set the thread's name")
		}
		names, err := os.ReadDir(dir)
		if err != nil || len(names) != 1 || names[0].Name() != dockerSees {
			t.Errorf("%v %v", names, err)
			return
		}
		if info, err := names[0].Info(); err != nil || info.Size() != 0 {
			t.Errorf("%v %v", info, err)
		}
	}()
	<-done
	_, err = os.Lstat(filepath.Join(dir, dockerSees))
	must.ErrorIs(t, err, unix.ENOENT)
}

func TestNodesCannotBeGuessed(t *testing.T) {
	var n nodes
	n.init()
	var last uint64
	for i := range 100 {
		id := n.folder(&directory{entry: fmt.Sprint(i)}, "").id
		must.Greater(t, uint64(1<<32), max(id, last)-min(id, last))
		last = id
	}
	// But a field's is the same while its version is there, also after the kernel forgot it.
	d, v := &directory{}, testVersion("user")
	v.refs++
	file := n.file(d, v, "user")
	file.lookups++
	id, inode := file.id, file.inode()
	must.True(t, n.forget(id, 1) == v)
	must.Nil(t, n.byID[id])
	again := n.file(d, v, "user")
	must.Eq(t, id, again.id)
	must.Eq(t, inode, again.inode())
	must.Less(t, 1<<32, inode)
}

func TestAFeedersSecondHelloIsRefused(t *testing.T) {
	r := run(t)
	p := r.dial("f")
	must.NoError(t, wire.Write(p.c, wire.Message{Type: wire.Hello, Feeder: "g"}))
	_, _, err := wire.ReadMessage(p.r)
	must.Error(t, err)
}

func TestReportsAreBounded(t *testing.T) {
	s := newStore(func(string) {})
	c := &conn{name: "f", news: make(chan struct{}, 1)}
	must.NoError(t, s.declare(c, wire.Directory{Name: "a", Mode: 0o400}))
	d := s.dirs[s.entry(c, "a")]
	for range 2 * maxUnknown {
		d.report(testHeader(), "made-up", wire.Unknown, time.Now())
	}
	for range 2 * maxReads {
		d.report(testHeader(), "v", wire.OK, time.Now())
	}
	m, any := s.collect(c)
	must.True(t, any)
	must.Len(t, maxReads, m.Read)
	must.Eq(t, maxUnknown+maxUnknown+maxReads, m.Lost)
	must.NoError(t, wire.Write(&bytes.Buffer{}, m))
	_, any = s.collect(c)
	must.False(t, any)

	// Names that JSON makes six times as long: the report can still be sent.
	for range 2 * maxReads {
		d.report(testHeader(), strings.Repeat("\x01", wire.MaxPath), wire.OK, time.Now())
	}
	m, _ = s.collect(c)
	must.Len(t, maxNames/wire.MaxPath, m.Read)
	must.Eq(t, 2*maxReads-len(m.Read), m.Lost)
	must.NoError(t, wire.Write(&bytes.Buffer{}, m))
}

func TestMountOptions(t *testing.T) {
	without := mountOptions("", nil)
	must.Eq(t, []string{"default_permissions", "max_read=131072"}, without.Options)
	must.True(t, without.AllowOther && without.DirectMountStrict)
	must.Eq(t, uintptr(unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY), without.DirectMountFlags)
	with := mountOptions("system_u:object_r:container_file_t:s0:c1,c2", nil)
	must.SliceContains(t, with.Options, `context="system_u:object_r:container_file_t:s0:c1,c2"`)
}
