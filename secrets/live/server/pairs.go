package server

import (
	"container/list"
	"time"
)

// Bounds of what is remembered of processes (C15).
const (
	pairFor   = 2 * time.Second
	pairTable = 4096
)

// pairs remembers which version of a directory a process has begun to read, so that it gets a user and a password that
// match. A process that opens a field again wants what is current, and so begins anew.
type pairs struct {
	entries map[pairKey]*list.Element
	order   list.List          // of *pair, the oldest first
	of      map[*directory]int // how many are of each
	drop    func(*version)
}

type pairKey struct {
	tgid uint32
	dir  *directory
}

type pair struct {
	key    pairKey
	v      *version
	until  time.Time
	opened map[string]bool
}

func newPairs(drop func(*version)) *pairs {
	return &pairs{entries: map[pairKey]*list.Element{}, of: map[*directory]int{}, drop: drop}
}

// version is which one a process is to find a field in.
func (p *pairs) version(tgid uint32, d *directory, path string, now time.Time) *version {
	e, ok := p.entries[pairKey{tgid, d}]
	if !ok {
		return d.current
	}
	found := e.Value.(*pair)
	if !now.Before(found.until) || found.v.gone || found.opened[path] || !found.v.has(path) {
		return d.current
	}
	return found.v
}

// opened notes that the process has opened a field of a version.
func (p *pairs) opened(tgid uint32, d *directory, v *version, path string, now time.Time) {
	key := pairKey{tgid, d}
	if e, ok := p.entries[key]; ok {
		if found := e.Value.(*pair); found.v == v && now.Before(found.until) && !found.opened[path] {
			found.opened[path] = true
			return
		}
		p.remove(e)
	}
	v.refs++
	p.of[d]++
	p.entries[key] = p.order.PushBack(&pair{key: key, v: v, until: now.Add(pairFor), opened: map[string]bool{path: true}})
	if p.order.Len() > pairTable {
		p.remove(p.oldest(p.largest(d)))
	}
}

// largest is a directory that has more of the table than others: a task with thousands of processes must not take the place
// of another's. It is d if that has more than its share.
func (p *pairs) largest(d *directory) *directory {
	if p.of[d] > pairTable/len(p.of) {
		return d
	}
	for other, n := range p.of {
		if n > p.of[d] {
			d = other
		}
	}
	return d
}

func (p *pairs) oldest(d *directory) *list.Element {
	e := p.order.Front()
	for e.Value.(*pair).key.dir != d {
		e = e.Next()
	}
	return e
}

// expire forgets what is over, and all of a directory that goes.
func (p *pairs) expire(now time.Time) {
	for e := p.order.Front(); e != nil && !now.Before(e.Value.(*pair).until); e = p.order.Front() {
		p.remove(e)
	}
}

func (p *pairs) forget(d *directory) {
	for e := p.order.Front(); e != nil; {
		next := e.Next()
		if e.Value.(*pair).key.dir == d {
			p.remove(e)
		}
		e = next
	}
}

func (p *pairs) remove(e *list.Element) {
	gone := p.order.Remove(e).(*pair)
	delete(p.entries, gone.key)
	if p.of[gone.key.dir]--; p.of[gone.key.dir] == 0 {
		delete(p.of, gone.key.dir)
	}
	p.drop(gone.v)
}
