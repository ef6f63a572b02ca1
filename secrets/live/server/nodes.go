package server

import (
	"crypto/rand"
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

// node is what the kernel knows by a number: the root, a folder of a directory, or one field of one version, whose content
// never changes. So what the kernel caches of it is right for ever.
type node struct {
	key     nodeKey
	id      uint64
	size    int    // of a field
	lookups uint64 // that the kernel has not forgotten
	pinned  bool   // a declared directory
}

type nodeKey struct {
	dir  *directory // nil: the root
	path string
	v    *version // nil: a folder
}

// maxNodes bounds the nodes of one directory. Long before, the kernel is asked to forget old ones (prune.go): so only programs that
// have thousands of files open, or secrets whose fields get thousands of other names at once, come to it.
const maxNodes = 4 * wire.MaxFields

// nodes is the table. It has what the kernel refers to, and the declared directories, and nothing else.
type nodes struct {
	byID  map[uint64]*node
	byKey map[nodeKey]*node
}

func (n *nodes) init() {
	root := &node{id: fuse.FUSE_ROOT_ID, pinned: true}
	n.byID = map[uint64]*node{root.id: root}
	n.byKey = map[nodeKey]*node{root.key: root}
}

// newID is a number that nobody guesses. Kernels before 6.7 let a container's root with CAP_DAC_READ_SEARCH open whatever is
// cached by its number (open_by_handle_at), and with that another task's directory.
func (n *nodes) newID() uint64 {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:])
		id := binary.NativeEndian.Uint64(b[:]) % emptyNode
		if n.byID[id] == nil && id > fuse.FUSE_ROOT_ID {
			return id
		}
	}
}

// inode is what programs see: some of them, of 32 bits, can see no larger one.
func (n *node) inode() uint64 { return n.id&0x7fffffff | 1 }

// get gives a node, and makes it if there is none; nil: its directory has too many.
func (n *nodes) get(key nodeKey) *node {
	found, ok := n.byKey[key]
	if !ok {
		if key.dir.nodes >= maxNodes {
			return nil
		}
		key.dir.nodes++
		found = &node{key: key}
		if key.v == nil {
			found.id = n.newID()
		} else {
			key.v.refs++
			found.size = key.v.fields[key.path].size
			if found.id = key.v.ids[key.path]; found.id == 0 { // the same one, for as long as the version is there
				found.id = n.newID()
				key.v.ids[key.path] = found.id
			}
		}
		n.byID[found.id], n.byKey[key] = found, found
	}
	return found
}

// folder gives the node of a folder, as get does. "" is a directory itself, which stays until it is unpinned.
func (n *nodes) folder(d *directory, path string) *node {
	found := n.get(nodeKey{dir: d, path: path})
	if path == "" && !d.gone {
		found.pinned = true
	}
	return found
}

func (n *nodes) file(d *directory, v *version, path string) *node {
	return n.get(nodeKey{dir: d, path: path, v: v})
}

// of gives the node of a name that a version has, as get does.
func (n *nodes) of(d *directory, v *version, path string) *node {
	if v.isFolder(path) {
		return n.folder(d, path)
	}
	return n.file(d, v, path)
}

// forget undoes look-ups. It gives the version of a file that is gone with it.
func (n *nodes) forget(id, lookups uint64) *version {
	found := n.byID[id]
	if found == nil {
		return nil
	}
	found.lookups -= min(lookups, found.lookups)
	return n.removeUnused(found)
}

func (n *nodes) unpin(id uint64) {
	if found := n.byID[id]; found != nil {
		found.pinned = false
		n.removeUnused(found)
	}
}

func (n *nodes) removeUnused(found *node) *version {
	if found.pinned || found.lookups > 0 {
		return nil
	}
	delete(n.byID, found.id)
	delete(n.byKey, found.key)
	found.key.dir.nodes--
	return found.key.v
}
