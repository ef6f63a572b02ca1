package server

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// values is the contents of one version, in pages of their own: locked if that is allowed, in no core dump, and wiped
// at the end. Go's heap would copy them about and keep them.
type values struct {
	pages  []byte // nil: no values
	locked bool
}

// newValues has room for size bytes.
func newValues(size int) (values, error) {
	if size == 0 {
		return values{locked: true}, nil
	}
	pages, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return values{}, fmt.Errorf("memory for %d bytes of values: %w", size, err)
	}
	v := values{pages: pages}
	_ = unix.Madvise(pages, unix.MADV_DONTDUMP) // not dumpable already
	v.locked = unix.Mlock(pages) == nil
	return v, nil
}

// read takes them from r.
func (v *values) read(r io.Reader) error {
	_, err := io.ReadFull(r, v.pages)
	if err != nil {
		v.wipe()
	}
	return err
}

// wipe gives the pages back, overwritten.
func (v *values) wipe() {
	if v.pages == nil {
		return
	}
	clear(v.pages)
	_ = unix.Munmap(v.pages)
	v.pages = nil
}
