package queue

import (
	"container/heap"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

type item struct{ value, index int }

func (i *item) Before(o *item) bool { return i.value < o.value }
func (i *item) SetIndex(n int)      { i.index = n }

// Items come out in their order, and each can be moved and taken out by the place that it was told.
func TestHeap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		var h Heap[*item]
		var in []*item
		for range r.IntN(30) + 1 {
			i := &item{value: r.IntN(10), index: -2}
			in = append(in, i)
			heap.Push(&h, i)
		}
		moved, out := in[r.IntN(len(in))], in[r.IntN(len(in))]
		moved.value = r.IntN(10)
		heap.Fix(&h, moved.index)
		require.Same(t, out, heap.Remove(&h, out.index))
		require.Equal(t, -1, out.index)
		require.Len(t, h, len(in)-1)
		for n, i := range h {
			require.Equal(t, n, i.index)
		}
		last := -1
		for len(h) > 0 {
			i := heap.Pop(&h).(*item)
			require.GreaterOrEqual(t, i.value, last)
			require.Equal(t, -1, i.index)
			last = i.value
		}
	}
}
