package server

import (
	"errors"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

// attrTimeout is how long the kernel believes owner and mode. Names it does not believe at all: each open comes here.
const attrTimeout = time.Second

// dockerSees is the one name that Docker's daemon sees in a directory. It copies what the image has at the place into a
// volume that lists nothing, and fails, for nothing can be written. Nobody else sees the name or finds a file there.
const dockerSees = ".secrets-are-read-by-name"

// filesystem answers the kernel out of the store. What it does not define is refused or unknown (refuse.go).
type filesystem struct {
	refuse
	*store
}

// Lookup finds a name. It decides what a process gets: a field's node is that of one version.
func (f *filesystem) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if len(name) > wire.MaxName {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	tgid := threadGroup(header.Pid)
	f.mu.Lock()
	defer f.mu.Unlock()
	parent := f.nodes.byID[header.NodeId]
	switch {
	case parent == nil || parent.key.v != nil:
		return fuse.ENOENT
	case parent.key.dir == nil:
		d := f.dirs[name]
		if d == nil {
			return fuse.ENOENT
		}
		return f.found(f.nodes.folder(d, ""), out)
	}

	d, path := parent.key.dir, join(parent.key.path, name)
	if d.gone {
		return fuse.ENOENT
	}
	if l := f.interest(d, time.Now()); l != nil {
		f.wait(d, l, cancel)
	}
	now := time.Now()
	v := f.pairs.version(tgid, d, path, now)
	switch {
	case d.gone:
		return fuse.ENOENT
	case d.current == nil || d.tooOld(now):
		d.report(header, path, wire.Stale, now)
		return fuse.EIO
	case v.has(path):
		n := f.nodes.of(d, v, path)
		if n == nil {
			d.report(header, path, wire.Full, now)
			return fuse.Status(syscall.ENFILE)
		}
		return f.found(n, out)
	case path == dockerSees && isDocker(header.Pid):
		out.Attr = fuse.Attr{Ino: fuse.FUSE_UNKNOWN_INO, Mode: syscall.S_IFREG | 0o400, Nlink: 1}
		out.NodeId = emptyNode
		return fuse.OK
	}
	d.report(header, path, wire.Unknown, now)
	return fuse.ENOENT
}

// emptyNode is the file that Docker's daemon finds.
const emptyNode = 1 << 62

func (f *filesystem) found(n *node, out *fuse.EntryOut) fuse.Status {
	n.lookups++
	out.NodeId = n.id
	out.SetAttrTimeout(attrTimeout)
	n.attr(&out.Attr)
	return fuse.OK
}

func (f *filesystem) Forget(id, lookups uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.nodes.forget(id, lookups); v != nil {
		f.release(v)
	}
}

func (f *filesystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes.byID[in.NodeId]
	if in.NodeId == emptyNode {
		out.Attr = fuse.Attr{Ino: fuse.FUSE_UNKNOWN_INO, Mode: syscall.S_IFREG | 0o400, Nlink: 1}
		return fuse.OK
	}
	if n == nil {
		return fuse.ENOENT
	}
	out.SetTimeout(attrTimeout)
	n.attr(&out.Attr)
	return fuse.OK
}

// attr are a node's attributes. A folder has one link, which tells programs that they cannot count its folders by it.
func (n *node) attr(a *fuse.Attr) {
	a.Ino, a.Nlink, a.Mode = n.inode(), 1, syscall.S_IFDIR|0o700
	d := n.key.dir
	if d == nil {
		return
	}
	a.Uid, a.Gid = d.UID, d.GID
	a.Mode = syscall.S_IFDIR | d.Mode | d.Mode&0o444>>2
	v := d.current
	if n.key.v != nil {
		v = n.key.v
		a.Mode = syscall.S_IFREG | d.Mode
		a.Size = uint64(n.size)
		a.Blocks = (a.Size + 511) / 512
	}
	if v != nil {
		a.SetTimes(&v.at, &v.at, &v.at)
	}
}

// Open is of a field, by a node that a look-up gave.
func (f *filesystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY || in.Flags&syscall.O_TRUNC != 0 {
		return fuse.EROFS
	}
	if in.NodeId == emptyNode {
		return fuse.OK
	}
	tgid := threadGroup(in.Pid)
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes.byID[in.NodeId]
	if n == nil || n.key.v == nil || n.key.dir.gone {
		return fuse.ENOENT
	}
	d, v, now := n.key.dir, n.key.v, time.Now()
	d.read = now
	if v.gone || d.tooOld(now) {
		d.report(&in.InHeader, n.key.path, wire.Stale, now)
		return fuse.EIO
	}
	f.pairs.opened(tgid, d, v, n.key.path, now)
	d.report(&in.InHeader, n.key.path, wire.OK, now)
	// The node's content is this for ever. And there is nothing to flush.
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

func (f *filesystem) Read(_ <-chan struct{}, in *fuse.ReadIn, _ []byte) (fuse.ReadResult, fuse.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes.byID[in.NodeId]
	if n == nil || n.key.v == nil {
		return fuse.ReadResultData(nil), fuse.OK // emptyNode
	}
	v := n.key.v
	if v.gone {
		return nil, fuse.EIO
	}
	v.reading++
	return &pages{f.store, v, v.slice(v.fields[n.key.path], in.Offset, int(in.Size))}, fuse.OK
}

// pages is an answer straight out of a version's pages: nothing of it is copied into Go's heap.
type pages struct {
	store *store
	v     *version
	part  []byte
}

func (p *pages) Slices() ([][]byte, fuse.Status) { return [][]byte{p.part}, fuse.OK }
func (p *pages) Size() int                       { return len(p.part) }
func (p *pages) Done()                           { p.store.done(p.v) }

// Bytes is for a caller that does not use Slices. There is none.
func (p *pages) Bytes(into []byte) ([]byte, fuse.Status) {
	return into[:copy(into, p.part)], fuse.OK
}

func (f *filesystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.nodes.byID[in.NodeId]; n == nil || n.key.v != nil {
		return fuse.ENOENT
	}
	return fuse.OK
}

// ReadDir lists nothing, and always succeeds, unless the directory was declared with a listing.
func (f *filesystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	docker := isDocker(in.Pid)
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes.byID[in.NodeId]
	if n == nil {
		return fuse.ENOENT
	}
	first := []child{{".", true}, {"..", true}}
	var rest []child
	if d := n.key.dir; d != nil {
		if docker && n.key.path == "" {
			first = append(first, child{dockerSees, false})
		}
		if d.Listing && d.current != nil && !d.tooOld(time.Now()) {
			rest = d.current.folders[n.key.path]
		}
	}
	for i := in.Offset; i < uint64(len(first)+len(rest)); i++ {
		c := first[min(i, uint64(len(first)-1))]
		if i >= uint64(len(first)) {
			c = rest[i-uint64(len(first))]
		}
		entry := fuse.DirEntry{Name: c.name, Mode: syscall.S_IFREG, Off: i + 1}
		if c.folder {
			entry.Mode = syscall.S_IFDIR
		}
		if !out.AddDirEntry(entry) {
			break
		}
	}
	return fuse.OK
}

func (f *filesystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.NameLen = 4096, wire.MaxName
	return fuse.OK
}

// errEnded: somebody has unmounted the file system by force.
var errEnded = errors.New("the file system was ended from outside")
