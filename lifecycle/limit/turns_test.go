package limit

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestTenantOfTask(t *testing.T) {
	for _, tt := range []struct {
		namespace, job, alloc string
		want                  Tenant
	}{
		{"n", "web", "a", Tenant{Namespace: "n", Job: "web"}},
		{"n", "web", "b", Tenant{Namespace: "n", Job: "web"}},
		{"m", "web", "b", Tenant{Namespace: "m", Job: "web"}},
		{"n", "batch/dispatch-1700000000-abc", "c", Tenant{Namespace: "n", Job: "batch"}},
		{"n", "nightly/periodic-1700000000", "d", Tenant{Namespace: "n", Job: "nightly"}},
		{"", "", "e", Tenant{Namespace: "", Job: "allocation e"}}, // an older plugin's journal
	} {
		require.Equal(t, tt.want, TenantOf(tt.namespace, tt.job, tt.alloc))
	}
}

// Of those who wait: tenants take turns, and in a round the one due first goes first; of one tenant's
// requests the one due first, and of equals the one that asked first.
func TestTurnsOrder(t *testing.T) {
	for _, tt := range []struct {
		name string
		add  []string // tenant and due, in the order of asking
		want []string
	}{
		{"none", nil, nil},
		{"one tenant, by due", []string{"a5", "a1", "a3", "a1"}, []string{"a1", "a1", "a3", "a5"}},
		{"in turns", []string{"a1", "a2", "a3", "b9", "b8"}, []string{"a1", "b8", "a2", "b9", "a3"}},
		{"in a round by due", []string{"a9", "b5", "c1"}, []string{"c1", "b5", "a9"}},
		{"many of one", []string{"a1", "a1", "a1", "a1", "b9"}, []string{"a1", "b9", "a1", "a1", "a1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var q turns
			for i, a := range tt.add {
				due := epoch.Add(time.Duration(a[1]-'0') * time.Second)
				q.add(&waiter{tenant: Tenant{Job: a[:1]}, due: due, order: uint64(i)})
			}
			var got []string
			for w := q.next(nil); w != nil; w = q.next(nil) {
				got = append(got, fmt.Sprintf("%s%d", w.tenant.Job, int(w.due.Sub(epoch).Seconds())))
			}
			require.Equal(t, tt.want, got)
			require.Zero(t, q.size)
			require.Empty(t, q.lines)
			require.Empty(t, q.served)
		})
	}
}

// Whoever comes, leaves and may not go when: nobody is lost or has two turns for one request; of no other
// tenant do more than two requests go while a tenant that may go waits; of a tenant's own the one due first
// goes; and nothing is remembered of tenants but of this round's.
func TestTurnsAreFair(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var q turns
		waiting := map[*waiter]bool{}
		passed := map[Tenant]map[Tenant]int{} // of who waits: how many of others went meanwhile
		count := map[Tenant]int{}
		order := uint64(0)
		var barred Tenant
		for range rapid.IntRange(1, 400).Draw(rt, "steps") {
			who := Tenant{Job: fmt.Sprint(rapid.IntRange(0, 6).Draw(rt, "tenant"))}
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0, 1, 2, 3, 4:
				order++
				w := &waiter{tenant: who, due: epoch.Add(time.Duration(rapid.IntRange(0, 9).Draw(rt, "due"))), order: order}
				q.add(w)
				waiting[w] = true
				count[who]++
				if passed[who] == nil {
					passed[who] = map[Tenant]int{}
				}
			case 5:
				for w := range waiting {
					if w.tenant == who {
						q.remove(w)
						delete(waiting, w)
						if count[who]--; count[who] == 0 {
							delete(passed, who)
						}
						break
					}
				}
			case 6:
				barred = who
				delete(passed, who)
			default:
				w := q.next(func(l *line) bool { return l.tenant != barred })
				if w == nil {
					for t, n := range count {
						if n > 0 && t != barred {
							rt.Fatalf("%v waits, and nobody goes", t)
						}
					}
					continue
				}
				if !waiting[w] || w.tenant == barred {
					rt.Fatalf("%v goes, who does not wait or may not", w.tenant)
				}
				delete(waiting, w)
				for o := range waiting {
					if o.tenant == w.tenant && o.Before(w) {
						rt.Fatalf("a request goes before one of its tenant that is due earlier")
					}
				}
				if count[w.tenant]--; count[w.tenant] > 0 {
					passed[w.tenant] = map[Tenant]int{}
				} else {
					delete(passed, w.tenant)
				}
				for t, by := range passed {
					if t == w.tenant || t == barred || count[t] == 0 {
						continue
					}
					if by[w.tenant]++; by[w.tenant] > 2 {
						rt.Fatalf("%v went %d times while %v waited", w.tenant, by[w.tenant], t)
					}
				}
			}
			if q.size != len(waiting) {
				rt.Fatalf("size %d, want %d", q.size, len(waiting))
			}
			if len(q.served) > 7 || q.size == 0 && len(q.served)+len(q.lines) > 0 {
				rt.Fatalf("%d tenants remembered", len(q.served))
			}
		}
	})
}

// However many new tenants come, each with one request that is due before all others: who waits has a turn.
func TestTurnsEndARound(t *testing.T) {
	var q turns
	old := &waiter{tenant: Tenant{Job: "old"}, due: epoch.Add(time.Hour)}
	q.add(&waiter{tenant: Tenant{Job: "old"}, due: epoch})
	q.add(old)
	for i := range 3 * roundTurns {
		q.add(&waiter{tenant: Tenant{Job: fmt.Sprint("new ", i)}, due: epoch, order: uint64(i + 2)})
		if q.next(nil) == old {
			require.LessOrEqual(t, len(q.served), roundTurns+2)
			return
		}
	}
	t.Fatal("new tenants go for ever")
}

// The higher priority goes first; but one turn in lowerTurn goes to the lower ones, in turns, so that none
// stops.
func TestRanks(t *testing.T) {
	anyLine := func(Priority, *line) bool { return true }
	var r ranks
	fill := func(u Priority, n int) {
		for range n {
			r.turns[u].add(&waiter{tenant: Tenant{Job: "a"}})
		}
	}
	left := func() [priorities]int { return [priorities]int{r.turns[0].size, r.turns[1].size, r.turns[2].size} }
	require.Nil(t, r.next(anyLine))
	fill(Renew, 100)
	fill(Rotate, 10)
	fill(Poll, 10)
	for range 4 * lowerTurn {
		require.NotNil(t, r.next(anyLine))
	}
	require.Equal(t, [priorities]int{100 - 4*(lowerTurn-1), 8, 8}, left())
	for r.turns[Renew].size > 0 {
		r.next(anyLine)
	}
	fill(Rotate, 100)
	looks := r.turns[Poll].size
	for range 2 * lowerTurn {
		r.next(anyLine)
	}
	require.Equal(t, looks-2, r.turns[Poll].size)
	for r.size() > 0 {
		require.NotNil(t, r.next(anyLine))
	}

	// Where nothing of lower priority waits, no turn is saved up for it.
	fill(Renew, 100)
	for range 50 {
		r.next(anyLine)
	}
	fill(Poll, 10)
	r.next(anyLine)
	require.Equal(t, 10, r.turns[Poll].size)
}

// BenchmarkTurns is one request's way through a queue in which so many wait, of as many tenants.
func BenchmarkTurns(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var q turns
			add := func(i int) { q.add(&waiter{tenant: Tenant{Job: fmt.Sprint(i % 1000)}, order: uint64(i)}) }
			for i := range n {
				add(i)
			}
			for i := n; b.Loop(); i++ {
				add(i)
				q.next(nil)
			}
		})
	}
}
