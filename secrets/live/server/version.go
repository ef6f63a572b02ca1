package server

import (
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

// version is all fields of a directory as they were at one moment. It is kept as long as it is current, somebody has a
// file of it open, or a process is to get the rest of it. Its directory's store guards it.
type version struct {
	values  values
	size    int                // with what the names take
	fields  map[string]span    // by path
	folders map[string][]child // what is in each, sorted; by path, "" is the directory itself
	ids     map[string]uint64  // of the nodes of fields, by path
	at      time.Time
	refs    int
	reading int  // answers under way that have its pages in them
	gone    bool // its values are wiped, or will be after these: a read of a file that is still open is an error
}

// span is where a field's value is.
type span struct{ from, size int }

// newVersion takes time where there are many fields: not to be done while the store is locked.
func newVersion(fields []wire.Field, v values, at time.Time) *version {
	n := &version{values: v, fields: make(map[string]span, len(fields)), folders: map[string][]child{"": nil}, ids: map[string]uint64{}, at: at}
	from := 0
	for _, f := range fields {
		n.fields[f.Path] = span{from: from, size: f.Size}
		from += f.Size
		n.add(f.Path, false)
	}
	for _, list := range n.folders {
		slices.SortFunc(list, func(a, b child) int { return strings.Compare(a.name, b.name) })
	}
	n.size = sizeOf(fields)
	return n
}

// add puts a name into its folder, and that into its own.
func (v *version) add(path string, folder bool) {
	parent, name := split(path)
	if _, ok := v.folders[parent]; !ok {
		v.add(parent, true)
	}
	if folder {
		v.folders[path] = nil
	}
	v.folders[parent] = append(v.folders[parent], child{name, folder})
}

// What each field, and each folder that it is in, takes beside its name and its value.
const fieldSize, folderSize = 256, 128

// sizeOf is what a version takes, in whole pages, and names included: who writes secrets can fill memory with these, too.
func sizeOf(fields []wire.Field) int {
	values, names := 0, 0
	for _, f := range fields {
		values += f.Size
		names += 2*len(f.Path) + fieldSize + folderSize*strings.Count(f.Path, "/")
	}
	page := os.Getpagesize()
	return (values+page-1)/page*page + names
}

// has reports whether there is a field or a folder of this name.
func (v *version) has(path string) bool {
	_, field := v.fields[path]
	return field || v.isFolder(path)
}

func (v *version) isFolder(path string) bool {
	_, ok := v.folders[path]
	return ok
}

// slice is a part of a field's value, as it lies in the pages.
func (v *version) slice(s span, offset uint64, size int) []byte {
	if offset >= uint64(s.size) {
		return nil
	}
	value := v.values.pages[s.from+int(offset) : s.from+s.size]
	return value[:min(size, len(value))]
}

// wipe ends the version's values, whoever may still refer to it. Pages that the kernel is just reading go after that: their
// place may have another's values a moment later.
func (v *version) wipe() {
	v.gone = true
	v.fields, v.folders, v.ids = nil, nil, nil // which may be large, too, and be held
	if v.reading == 0 {
		v.values.wipe()
	}
}

// child is one name in a folder.
type child struct {
	name   string
	folder bool
}

// split undoes join.
func split(path string) (folder, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(0, i)], path[i+1:]
}

// join is a name's path in a folder.
func join(folder, name string) string {
	if folder == "" {
		return name
	}
	return folder + "/" + name
}
