// Package queue is a priority queue whose items know their place in it, so that one can be moved or taken out.
package queue

// Item is what a Heap holds.
type Item[T any] interface {
	// Before reports whether it comes before another.
	Before(T) bool
	// SetIndex tells it its place: for heap.Fix and heap.Remove. -1: it is out.
	SetIndex(int)
}

// Heap is for the functions of container/heap. The item that comes first is the one at 0.
type Heap[T Item[T]] []T

// Len is how many there are.
func (h Heap[T]) Len() int { return len(h) }

// Less is for package heap.
func (h Heap[T]) Less(i, j int) bool { return h[i].Before(h[j]) }

// Swap is for package heap.
func (h Heap[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].SetIndex(i)
	h[j].SetIndex(j)
}

// Push is for package heap: it puts an item at the end.
func (h *Heap[T]) Push(x any) {
	item := x.(T)
	item.SetIndex(len(*h))
	*h = append(*h, item)
}

// Pop is for package heap: it takes out the item at the end.
func (h *Heap[T]) Pop() any {
	last := len(*h) - 1
	item := (*h)[last]
	clear((*h)[last:]) // keeps nothing alive
	*h = (*h)[:last]
	item.SetIndex(-1)
	return item
}
