package server

import (
	"crypto/rand"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/wire"
)

// store is all live directories of the node. mu guards it and everything in it.
type store struct {
	key string // of the directories' names

	mu       sync.Mutex
	dirs     map[string]*directory // by wire.Entry
	nodes    nodes
	pairs    *pairs
	versions map[*version]bool // those whose values are here
	bytes    int               // of these
	waiting  int               // readers that wait for a look
	unlocked bool              // some values could not be locked, which was said
	say      func(string)      // a line for the feeders' logs; does not wait
}

// directory is one declared directory.
type directory struct {
	wire.Directory
	entry   string
	node    uint64
	feeder  *conn     // nil: not connected
	left    time.Time // when it was last seen without a feeder that declares it
	current *version  // nil: no values yet, or none any more
	looked  time.Time // when the secrets server was last seen to have just this
	stale   bool      // current was wiped, for it was too old
	gone    bool

	read    time.Time // when somebody last looked something up
	active  bool      // since the last report
	unknown int       // look-ups of unknown names reported since then
	look    *look
	waiting int
}

func newStore(say func(string)) *store {
	s := &store{key: rand.Text(), dirs: map[string]*directory{}, versions: map[*version]bool{}, say: say}
	s.pairs = newPairs(s.release)
	s.nodes.init()
	return s
}

func (s *store) entry(feeder *conn, dir string) string { return wire.Entry(s.key, feeder.name, dir) }

// maxDirs bounds what feeders may declare.
const maxDirs = 10_000

// declare makes a directory, or changes what is said of one: its values stay.
func (s *store) declare(feeder *conn, d wire.Directory) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	entry := s.entry(feeder, d.Name)
	have := s.dirs[entry]
	if have == nil {
		if len(s.dirs) >= maxDirs {
			return fmt.Errorf("the file server has %d directories: that is its bound", maxDirs)
		}
		have = &directory{entry: entry}
		have.node = s.nodes.folder(have, "").id
		s.dirs[entry] = have
	}
	have.Directory, have.feeder, have.left = d, feeder, time.Time{}
	return nil
}

// set makes values the current version of a directory. They are read from r to their end, whatever comes of it.
func (s *store) set(feeder *conn, m wire.Message, size int, r io.Reader, now time.Time) error {
	err := s.fits(feeder, m.Dir, size)
	if err != nil {
		if _, drain := io.CopyN(io.Discard, r, int64(size)); drain != nil {
			return drain
		}
		return refused{err}
	}
	vals, err := readValues(r, size)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dirs[s.entry(feeder, m.Dir)]
	if d == nil { // withdrawn over another connection
		vals.wipe()
		return refused{fmt.Errorf("no directory %s was declared", m.Dir)}
	}
	if !vals.locked && !s.unlocked {
		s.unlocked = true
		s.say("values cannot be locked in memory (no CAP_IPC_LOCK, and RLIMIT_MEMLOCK is reached): they may be swapped out")
	}
	old := d.current
	at := now.Add(-time.Duration(m.AgeMS) * time.Millisecond)
	d.current = newVersion(m.Fields, vals, at)
	d.current.refs++
	d.looked, d.stale = at, false
	s.versions[d.current] = true
	s.bytes += size
	if old != nil {
		s.release(old)
	}
	s.giveWay()
	d.answered()
	return nil
}

// refused is an error of a request. Any other ends the connection.
type refused struct{ error }

// fits reports whether values of this size may take the place of a directory's current ones.
func (s *store) fits(feeder *conn, dir string, size int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dirs[s.entry(feeder, dir)]
	if d == nil {
		return fmt.Errorf("no directory %s was declared", dir)
	}
	sum := size
	for _, each := range s.dirs {
		if each != d && each.current != nil {
			sum += each.current.size
		}
	}
	if sum > wire.MaxNode {
		return fmt.Errorf("the values of all live directories of this node would have %d bytes: the bound is %d", sum, wire.MaxNode)
	}
	return nil
}

// giveWay wipes old versions, which somebody keeps open, while there are more bytes than a node may have.
func (s *store) giveWay() {
	if s.bytes <= wire.MaxNode {
		return
	}
	current := map[*version]bool{}
	for _, d := range s.dirs {
		current[d.current] = true
	}
	for v := range s.versions {
		if !current[v] && s.bytes > wire.MaxNode {
			s.wipe(v)
		}
	}
}

// fresh notes that the secrets server has just what is here, or had it then, if later is not known.
func (s *store) fresh(feeder *conn, dir string, age time.Duration, orLater bool, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dirs[s.entry(feeder, dir)]
	if d == nil || d.current == nil {
		return fmt.Errorf("%s has no values: they must be set again", dir)
	}
	if at := now.Add(-age); !orLater || at.After(d.looked) {
		d.looked = at
	}
	d.answered()
	return nil
}

// failed notes that the secrets server could not be asked.
func (s *store) failed(feeder *conn, dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.dirs[s.entry(feeder, dir)]; d != nil {
		d.answered()
	}
}

// withdraw takes a directory away.
func (s *store) withdraw(feeder *conn, dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.dirs[s.entry(feeder, dir)]; d != nil {
		s.removeLocked(d)
	}
}

func (s *store) removeLocked(d *directory) {
	delete(s.dirs, d.entry)
	d.gone = true
	d.answered()
	s.pairs.forget(d)
	if d.current != nil {
		s.release(d.current)
		d.current = nil
	}
	s.nodes.unpin(d.node)
}

// leave is for a feeder that is gone: its directories stay.
func (s *store) leave(feeder *conn, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dirs {
		if d.feeder == feeder {
			d.feeder, d.left = nil, now
			d.answered()
		}
	}
}

// expire wipes what may not be served any more.
func (s *store) expire(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pairs.expire(now)
	for _, d := range s.dirs {
		if d.tooOld(now) && d.current != nil {
			s.wipe(d.current) // for who has a file of it open, too
			s.release(d.current)
			d.current, d.stale = nil, true
		}
	}
}

func (d *directory) tooOld(now time.Time) bool {
	return d.stale || now.Sub(d.looked) > time.Duration(d.StaleMS)*time.Millisecond
}

// done is after an answer that had the version's pages in it.
func (s *store) done(v *version) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.reading--
	if v.gone && v.reading == 0 {
		v.values.wipe()
	}
}

// release drops one reference to a version.
func (s *store) release(v *version) {
	v.refs--
	if v.refs == 0 {
		s.wipe(v)
	}
}

func (s *store) wipe(v *version) {
	if s.versions[v] {
		delete(s.versions, v)
		s.bytes -= v.size
		v.wipe()
	}
}
