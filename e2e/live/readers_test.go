package live

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoenig/test/must"
	"golang.org/x/sync/errgroup"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// reader is a container that reads and counts.
type reader struct {
	t    *testing.T
	name string
	out  string
}

var readers atomic.Int32

// startReader runs the reader in a container with a volume at /secrets.
func (d *daemon) startReader(image, volume string, dockerArgs []string, args ...string) *reader {
	d.t.Helper()
	r, run := d.reader(image, volume, dockerArgs, args)
	mustDocker(d.t, run...)
	return r
}

// reader makes a reader, and the command line that starts it.
func (d *daemon) reader(image, volume string, dockerArgs, args []string) (*reader, []string) {
	d.t.Helper()
	r := &reader{t: d.t, name: fmt.Sprintf("reader-%d-%d", os.Getpid(), readers.Add(1))}
	dir := d.path("out")
	must.NoError(d.t, os.MkdirAll(dir, 0o777))
	must.NoError(d.t, os.Chmod(dir, 0o777))
	r.out = filepath.Join(dir, r.name)
	run := []string{"run", "-d", "--network", "none", "--name", r.name, "--volume-driver", d.name, "-v", volume + ":/secrets", "-v", dir + ":/out"}
	run = append(append(run, dockerArgs...), image, "/bin/reader")
	for _, a := range args {
		if a == "OUT" {
			a = "/out/" + r.name
		}
		run = append(run, a)
	}
	return r, run
}

// startReaders starts many, some at a time, of both images in turn.
func (d *daemon) startReaders(n int, volume string, args ...string) []*reader {
	d.t.Helper()
	var all []*reader
	var g errgroup.Group
	g.SetLimit(4)
	for i := range n {
		r, run := d.reader([]string{busyboxImage, glibcImage}[i%2], volume, nil, args)
		all = append(all, r)
		g.Go(func() error {
			_, err := docker(d.t, run...)
			return err
		})
	}
	must.NoError(d.t, g.Wait())
	for _, r := range all {
		r.until("a read", 30*time.Second, func(s stats) bool { return s.Reads > 0 })
	}
	return all
}

// stats are the reader's of now.
type stats struct {
	Reads      int
	Errors     int
	FirstError string
	LastError  string
	LastFailed int64
	Mismatches int
	Slowest    time.Duration
	Took       map[int]int
	Seen       map[string]int64
}

// sum is of many readers.
func sum(all []stats) stats {
	total := stats{Took: map[int]int{}}
	for _, s := range all {
		total.Reads += s.Reads
		total.Errors += s.Errors
		total.Slowest = max(total.Slowest, s.Slowest)
		for took, n := range s.Took {
			total.Took[took] += n
		}
	}
	return total
}

func (s stats) String() string {
	return fmt.Sprintf("%d reads, %d failed, 99 of 100 within %s, the slowest %s", s.Reads, s.Errors, s.p99(), s.Slowest)
}

// p99 is what 99 of 100 reads took at most.
func (s stats) p99() time.Duration {
	n := 0
	for _, took := range slices.Sorted(maps.Keys(s.Took)) {
		if n += s.Took[took]; n*100 >= s.Reads*99 {
			return time.Duration(took) * time.Microsecond
		}
	}
	return s.Slowest
}

func (r *reader) stats() (s stats, err error) {
	b, err := os.ReadFile(r.out)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}

// until waits for something in the stats.
func (r *reader) until(what string, within time.Duration, cond func(stats) bool) stats {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), within)
	defer cancel()
	var last stats
	must.NoError(r.t, harness.Until(ctx, what, func() error {
		s, err := r.stats()
		if err == nil && !cond(s) {
			err = fmt.Errorf("reads %d, errors %d (%s), seen %d", s.Reads, s.Errors, s.LastError, len(s.Seen))
		}
		last = s
		return err
	}))
	return last
}
