package server

import "time"

const (
	// waitFresh bounds what a reader waits for a fresh look. With what a busy machine adds it is answered within 200 ms.
	waitFresh = 150 * time.Millisecond
	// pause is how long nobody must have read for the next reader to be one that waits. The feeder polls what is being
	// read each second.
	pause = 1500 * time.Millisecond

	// Those who wait keep memory each. Beyond these numbers a reader gets the last value at once.
	maxWaiting    = 128
	maxWaitingDir = 32
)

// look is a fresh look at a secret that the feeder was asked for.
type look struct {
	done  chan struct{} // closed when the feeder has answered, whatever it found
	until time.Time
}

// interest notes that somebody reads in a directory, and gives the look that the reader should wait for; nil: none.
// It asks the feeder for that when nobody has read for a while. While an earlier question is unanswered nobody
// waits: then the feeder, or the secrets server, hangs.
func (s *store) interest(d *directory, now time.Time) *look {
	idle := now.Sub(d.read) > pause
	d.read = now
	if d.feeder == nil {
		return nil
	}
	if !d.active {
		d.active = true
		d.feeder.wake()
	}
	if d.current == nil && !d.stale { // its feeder is about to set it
		return nil
	}
	if d.look == nil {
		if !idle || now.Sub(d.looked) < pause || !d.feeder.want(d.Name) {
			return nil
		}
		d.look = &look{done: make(chan struct{}), until: now.Add(waitFresh)}
	}
	if !now.Before(d.look.until) || s.waiting >= maxWaiting || d.waiting >= maxWaitingDir {
		return nil
	}
	return d.look
}

// wait is for the look, its bound, or the reader's own end. The store is not locked meanwhile.
func (s *store) wait(d *directory, l *look, cancel <-chan struct{}) {
	s.waiting++
	d.waiting++
	s.mu.Unlock()
	timer := time.NewTimer(time.Until(l.until))
	select {
	case <-l.done:
	case <-timer.C:
	case <-cancel:
	}
	timer.Stop()
	s.mu.Lock()
	s.waiting--
	d.waiting--
}

// answered ends the wait for a look.
func (d *directory) answered() {
	if d.look != nil {
		close(d.look.done)
		d.look = nil
	}
}
