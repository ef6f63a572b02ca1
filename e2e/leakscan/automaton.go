package leakscan

// automaton finds many patterns in one pass over a stream (Aho and Corasick's). It keeps its place
// between two writes, so that a pattern is found across them, and nothing is kept of what was read.
type automaton struct {
	next [][256]int32 // state and byte → state
	ends [][]int      // the patterns that end at a state
	size []int        // of each pattern
}

func newAutomaton(patterns [][]byte) *automaton {
	a := &automaton{next: make([][256]int32, 1), ends: make([][]int, 1)}
	for id, p := range patterns {
		state := int32(0)
		for _, c := range p {
			if a.next[state][c] == 0 {
				a.next[state][c] = int32(len(a.next))
				a.next = append(a.next, [256]int32{})
				a.ends = append(a.ends, nil)
			}
			state = a.next[state][c]
		}
		a.ends[state] = append(a.ends[state], id)
		a.size = append(a.size, len(p))
	}
	a.link()
	return a
}

// link fills in where to go on when a pattern breaks off: to the longest pattern's beginning that the
// text read so far ends with. States are visited by their depth, so that this one's is done already.
func (a *automaton) link() {
	fallback := make([]int32, len(a.next))
	var queue []int32
	for _, child := range a.next[0] {
		if child != 0 {
			queue = append(queue, child)
		}
	}
	for len(queue) > 0 {
		state := queue[0]
		queue = queue[1:]
		back := fallback[state]
		a.ends[state] = append(a.ends[state], a.ends[back]...)
		for c, child := range a.next[state] {
			if child != 0 {
				fallback[child] = a.next[back][c]
				queue = append(queue, child)
			} else {
				a.next[state][c] = a.next[back][c]
			}
		}
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
	state := s.state
	for i, c := range b {
		state = s.next[state][c]
		if ends := s.ends[state]; len(ends) > 0 {
			for _, id := range ends {
				s.found(id, s.read+int64(i+1-s.size[id]))
			}
		}
	}
	s.state = state
	s.read += int64(len(b))
	return len(b), nil
}
