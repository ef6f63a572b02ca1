package driver

import "sync"

// looks gives starts that come at once one look at the machine's processes: on a large node a look reads thousands of files. Each
// start gets one that began after it asked. The zero value is ready.
type looks struct {
	mu      sync.Mutex // guards what follows
	current *look      // under way
	next    *look      // has not begun, and is for all who ask now
}

type look struct {
	done     chan struct{}
	commands map[int][]string // not to be changed: others have it, too
	err      error
}

// commandLooks is of all starts in this process.
var commandLooks looks

// commands looks at the processes by read: their arguments, by pid.
func (l *looks) commands(read func() (map[int][]string, error)) (map[int][]string, error) {
	mine, before, first := l.join()
	if !first {
		<-mine.done
		return mine.commands, mine.err
	}
	if before != nil {
		<-before.done
	}
	l.mu.Lock()
	l.current, l.next = mine, nil // who asks from now on gets another
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.current = nil
		close(mine.done)
	}()
	mine.commands, mine.err = read()
	return mine.commands, mine.err
}

// join is the look for who asks now. Who is the first to ask for it makes it, when the one before is over.
func (l *looks) join() (mine, before *look, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == nil {
		l.next, first = &look{done: make(chan struct{})}, true
	}
	return l.next, l.current, first
}
