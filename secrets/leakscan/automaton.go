package leakscan

// automaton finds many patterns in one pass over a stream (Aho and Corasick's). It keeps its place
// between two writes, so that a pattern is found across them, and nothing is kept of what was read.
//
// Most bytes of a stream begin no pattern, or end after the first byte: those states have a table of all bytes. The
// others, which are nearly all, have a list of their children, so that a pattern's byte costs some 24 bytes of memory.
type automaton struct {
	states []state
	rows   [][256]int32 // of the states near the root: byte → state
	same   []int32      // by pattern: another of the same text, or none
	size   []int        // by pattern
}

// state is what was read so far of patterns. The root is number 0.
type state struct {
	child, sibling int32 // 0: none
	back           int32 // the longest other beginning of a pattern that the text so far ends with
	report         int32 // the nearest state on the way back, this one included, at which a pattern ends; 0: none
	pattern        int32 // that ends here, or none
	row            int32 // in rows, or none
	byte           byte
}

const none = -1

func newAutomaton(patterns [][]byte) *automaton {
	a := &automaton{states: []state{{pattern: none, row: none}}}
	for id, p := range patterns {
		at := int32(0)
		for _, c := range p {
			next := a.childOf(at, c)
			if next == 0 {
				next = int32(len(a.states))
				a.states = append(a.states, state{byte: c, sibling: a.states[at].child, pattern: none, row: none})
				a.states[at].child = next
			}
			at = next
		}
		a.same = append(a.same, a.states[at].pattern)
		a.states[at].pattern = int32(id)
		a.size = append(a.size, len(p))
	}
	a.link()
	return a
}

func (a *automaton) childOf(at int32, c byte) int32 {
	for next := a.states[at].child; next != 0; next = a.states[next].sibling {
		if a.states[next].byte == c {
			return next
		}
	}
	return 0
}

// link fills in where to go on when a pattern breaks off. States are visited by their depth, so that what is on the way
// back of one is done already.
func (a *automaton) link() {
	a.tabulate(0)
	var queue []int32
	for next := a.states[0].child; next != 0; next = a.states[next].sibling {
		queue = append(queue, next)
	}
	for _, next := range queue { // one byte deep: the way back is the root
		a.tabulate(next)
	}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		s := &a.states[at]
		if s.report = a.states[s.back].report; s.pattern != none {
			s.report = at
		}
		for next := s.child; next != 0; next = a.states[next].sibling {
			a.states[next].back = a.step(s.back, a.states[next].byte)
			queue = append(queue, next)
		}
	}
}

// tabulate gives a state near the root its table.
func (a *automaton) tabulate(at int32) {
	var row [256]int32
	if at != 0 {
		row = a.rows[0]
	}
	for next := a.states[at].child; next != 0; next = a.states[next].sibling {
		row[a.states[next].byte] = next
	}
	a.states[at].row = int32(len(a.rows))
	a.rows = append(a.rows, row)
}

// step is the state after one more byte.
func (a *automaton) step(at int32, c byte) int32 {
	for {
		s := &a.states[at]
		if s.row != none {
			return a.rows[s.row][c]
		}
		if next := a.childOf(at, c); next != 0 {
			return next
		}
		at = s.back
	}
}

// search is one stream's search.
type search struct {
	*automaton
	state int32
	read  int64
	found func(pattern int, at int64)
}

// Write reads on. It never fails.
func (s *search) Write(b []byte) (int, error) {
	at := s.state
	for i, c := range b {
		at = s.step(at, c)
		for end := s.states[at].report; end != 0; end = s.states[s.states[end].back].report {
			for id := s.states[end].pattern; id != none; id = s.same[id] {
				s.found(int(id), s.read+int64(i+1-s.size[id]))
			}
		}
	}
	s.state = at
	s.read += int64(len(b))
	return len(b), nil
}
