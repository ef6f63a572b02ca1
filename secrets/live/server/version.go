package server

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

// version is all fields of a directory as they were at one moment. It is kept as long as it is current, somebody has a
// file of it open, or a process is to get the rest of it. Its directory's store guards it.
type version struct {
	values  values
	size    int
	fields  map[string]span   // by path
	folders map[string]bool   // by path; "" is the directory itself
	ids     map[string]uint64 // of the nodes of fields, by path
	at      time.Time
	refs    int
	reading int  // answers under way that have its pages in them
	gone    bool // its values are wiped, or will be after these: a read of a file that is still open is an error
}

// span is where a field's value is.
type span struct{ from, size int }

func newVersion(fields []wire.Field, v values, at time.Time) *version {
	n := &version{values: v, fields: make(map[string]span, len(fields)), folders: map[string]bool{"": true}, ids: map[string]uint64{}, at: at}
	for _, f := range fields {
		n.fields[f.Path] = span{from: n.size, size: f.Size}
		n.size += f.Size
		for i, c := range []byte(f.Path) {
			if c == '/' {
				n.folders[f.Path[:i]] = true
			}
		}
	}
	return n
}

// has reports whether there is a field or a folder of this name.
func (v *version) has(path string) bool {
	_, field := v.fields[path]
	return field || v.folders[path]
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
	if v.reading == 0 {
		v.values.wipe()
	}
}

// child is one name in a folder.
type child struct {
	name   string
	folder bool
}

// list gives the names in a folder, sorted.
func (v *version) list(folder string) []child {
	prefix := join(folder, "")
	names := map[string]bool{}
	for path := range v.fields {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			name, _, deeper := strings.Cut(rest, "/")
			names[name] = deeper
		}
	}
	var list []child
	for _, name := range slices.Sorted(maps.Keys(names)) {
		list = append(list, child{name, names[name]})
	}
	return list
}

// join is a name's path in a folder.
func join(folder, name string) string {
	if folder == "" {
		return name
	}
	return folder + "/" + name
}
