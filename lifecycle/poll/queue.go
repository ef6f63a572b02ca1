package poll

import "github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/queue"

// pathQueue has the next path to be polled first.
type pathQueue = queue.Heap[*polledPath]

// Before is for the queue.
func (path *polledPath) Before(o *polledPath) bool { return path.next.Before(o.next) }

// SetIndex is for the queue.
func (path *polledPath) SetIndex(i int) { path.index = i }
