package guard

import (
	"path/filepath"
	"testing"

	"github.com/shoenig/test/must"
)

// What a container's start costs more: its logs' directory and two FIFOs, or binds, pinned and released.
func BenchmarkPins(b *testing.B) {
	root, dir := filepath.Join(b.TempDir(), "binds"), b.TempDir()
	file, err := openPath(dir, 0)
	must.NoError(b, err)
	defer file.Close()
	for b.Loop() {
		pins, err := NewPins(root)
		must.NoError(b, err)
		for range 3 {
			_, err = pins.Add(file)
			must.NoError(b, err)
		}
		pins.Release()
	}
}
