package server

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
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
	versions map[*version]*directory // those whose values are here
	bytes    int                     // of these, names included
	waiting  int                     // readers that wait for a look
	unlocked bool                    // some values could not be locked, which was said
	say      func(string)            // a line for the feeders' logs; does not wait
}

// directory is one declared directory.
type directory struct {
	wire.Directory
	entry   string
	node    uint64
	nodes   int       // of it, its folders and its files
	feeder  *conn     // nil: not connected
	left    time.Time // when it was last seen without a feeder that declares it
	current *version  // nil: no values yet, or none any more
	looked  time.Time // when the secrets server was last seen to have just this
	stale   bool      // current was wiped, for it was too old
	refused bool      // values that were to take the place of current: it is not what the secrets server has
	gone    bool

	read    time.Time // when somebody last looked something up
	active  bool      // since the last report
	unknown int       // look-ups of unknown names reported since then
	missed  int       // opens that no feeder was told of
	look    *look
	waiting int
}

func newStore(say func(string)) *store {
	s := &store{key: rand.Text(), dirs: map[string]*directory{}, versions: map[*version]*directory{}, say: say}
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
	if have.missed > 0 {
		feeder.lost += have.missed
		have.missed = 0
		feeder.wake()
	}
	return nil
}

// set makes values the current version of a directory. They are read from r to their end, whatever comes of it.
func (s *store) set(feeder *conn, m wire.Message, size int, r io.Reader, now time.Time) error {
	var vals values
	s.mu.Lock()
	err := s.fits(feeder, m.Dir, sizeOf(m.Fields))
	s.mu.Unlock()
	if err == nil {
		vals, err = newValues(size)
	}
	if err != nil {
		if _, drain := io.CopyN(io.Discard, r, int64(size)); drain != nil {
			return drain
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.refuse(feeder, m.Dir, err)
	}
	if err := vals.read(r); err != nil {
		return err
	}
	at := now.Add(-time.Duration(m.AgeMS) * time.Millisecond)
	v := newVersion(m.Fields, vals, at)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fits(feeder, m.Dir, v.size); err != nil { // meanwhile others may have taken the room, or the directory
		v.wipe()
		return s.refuse(feeder, m.Dir, err)
	}
	d := s.dirs[s.entry(feeder, m.Dir)]
	if !vals.locked && !s.unlocked {
		s.unlocked = true
		s.say("values cannot be locked in memory (no CAP_IPC_LOCK, and RLIMIT_MEMLOCK is reached): they may be swapped out")
	}
	old := d.current
	d.current = v
	d.current.refs++
	d.looked, d.stale, d.refused = at, false, false
	s.versions[d.current] = d
	s.bytes += v.size
	if old != nil {
		s.release(old)
	}
	s.giveWay()
	d.answered()
	return nil
}

// refuse refuses values. Nothing more is said of those that a directory has until others are set: they are served until they are
// stale. The store is locked.
func (s *store) refuse(feeder *conn, dir string, err error) error {
	if d := s.dirs[s.entry(feeder, dir)]; d != nil {
		d.refused = true
		d.answered()
	}
	return refused{err}
}

// refused is an error of a request. Any other ends the connection.
type refused struct{ error }

// fits reports whether values of this size may take the place of a directory's current ones. The store is locked.
func (s *store) fits(feeder *conn, dir string, size int) error {
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
		return fmt.Errorf("the values of all live directories of this node would have %d bytes, with their names: the bound is %d", sum, wire.MaxNode)
	}
	return nil
}

// giveWay wipes old versions, which somebody keeps open, while there are more bytes than a node may have: the oldest of the
// directory that keeps most, so that nobody's come at the expense of another's.
func (s *store) giveWay() {
	if s.bytes <= wire.MaxNode {
		return
	}
	type old struct {
		versions []*version
		size     int
	}
	byDir := map[*directory]*old{}
	var all []*old
	for v, d := range s.versions {
		if d.current == v {
			continue
		}
		if byDir[d] == nil {
			byDir[d] = &old{}
			all = append(all, byDir[d])
		}
		byDir[d].versions = append(byDir[d].versions, v)
		byDir[d].size += v.size
	}
	for _, o := range all {
		slices.SortFunc(o.versions, func(a, b *version) int { return a.at.Compare(b.at) })
	}
	for s.bytes > wire.MaxNode && len(all) > 0 {
		most := slices.MaxFunc(all, func(a, b *old) int { return cmp.Compare(a.size, b.size) })
		if most.size == 0 { // these were all
			return
		}
		most.size -= most.versions[0].size
		s.wipe(most.versions[0])
		most.versions = most.versions[1:]
	}
}

// fresh notes that the secrets server has just what is here, or had it then, if later is not known.
func (s *store) fresh(feeder *conn, dir string, age time.Duration, orLater bool, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dirs[s.entry(feeder, dir)]
	if d == nil || d.current == nil || d.refused && !orLater {
		return fmt.Errorf("%s does not have these values: they must be set again", dir)
	}
	if at := now.Add(-age); !orLater || at.After(d.looked) && !d.refused {
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
	s.wipeAll(d)
	s.nodes.unpin(d.node)
}

// leave is for a feeder that is gone: its directories stay.
func (s *store) leave(feeder *conn, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	missed := len(feeder.reads) + feeder.lost
	for _, d := range s.dirs {
		if d.feeder == feeder {
			d.feeder, d.left = nil, now
			d.missed += missed
			missed = 0
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
			s.wipeAll(d)
			d.stale = true
		}
	}
}

// wipeAll wipes all values of a directory, for who has a file of one open, too.
func (s *store) wipeAll(d *directory) {
	for v, of := range s.versions {
		if of == d {
			s.wipe(v)
		}
	}
	if d.current != nil {
		s.release(d.current)
		d.current = nil
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
	if s.versions[v] != nil {
		delete(s.versions, v)
		s.bytes -= v.size
		v.wipe()
	}
}
