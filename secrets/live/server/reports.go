package server

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

const (
	reportEvery = 50 * time.Millisecond

	// Bounds of what is kept for one report. What is beyond is counted.
	maxReads   = 4096
	maxNames   = 512 << 10 // bytes of the names in it; JSON may write each as six
	maxUnknown = 100       // made-up names, of one directory
)

// report notes an open for the feeder's audit log. It does not wait.
func (d *directory) report(header *fuse.InHeader, path string, result wire.Result, now time.Time) {
	c := d.feeder
	if c == nil {
		d.missed++
		return
	}
	if result == wire.Unknown {
		d.unknown++
	}
	if len(c.reads) >= maxReads || c.names+len(path) > maxNames || result == wire.Unknown && d.unknown > maxUnknown {
		c.lost++
	} else {
		c.names += len(path)
		c.reads = append(c.reads, wire.Read{
			Dir: d.Name, Path: path, UID: header.Uid, PID: header.Pid, Result: result, UnixMS: now.UnixMilli(),
		})
	}
	c.wake()
}

// collect takes what there is to report to a feeder.
func (s *store) collect(c *conn) (wire.Message, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := wire.Message{Type: wire.Reads, Read: c.reads, Lost: c.lost}
	c.reads, c.names, c.lost = nil, 0, 0
	for _, d := range s.dirs {
		if d.feeder == c {
			d.unknown = 0
			if d.active {
				d.active = false
				m.Active = append(m.Active, d.Name)
			}
		}
	}
	return m, len(m.Read) > 0 || len(m.Active) > 0 || m.Lost > 0
}

// undelivered counts what was in a report that could not be sent.
func (s *store) undelivered(c *conn, m wire.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.lost += len(m.Read) + m.Lost
}
