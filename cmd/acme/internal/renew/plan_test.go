package renew

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var begin = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func after(d time.Duration) time.Time { return begin.Add(d) }

func TestAt(t *testing.T) {
	t.Parallel()
	quarter := Life{NotBefore: begin, NotAfter: after(90 * day)}
	for name, test := range map[string]struct {
		life     Life
		fraction float64
		advice   *Window
		want     time.Duration // since the life's beginning
	}{
		"without advice, the earliest":           {quarter, 0, nil, 60*day - 90*day/20},
		"without advice, the latest":             {quarter, 1, nil, 60 * day},
		"six days":                               {Life{NotBefore: begin, NotAfter: after(6 * day)}, 1, nil, 4 * day},
		"in the authority's window":              {quarter, 0.5, &Window{after(40 * day), after(42 * day)}, 41 * day},
		"a window that is over, as a revocation": {quarter, 0.5, &Window{after(-2 * day), after(-day)}, time.Hour},
		"a window after the end":                 {quarter, 0.5, &Window{after(100 * day), after(102 * day)}, 81 * day},
		"a window that ends before its start":    {quarter, 1, &Window{after(42 * day), after(40 * day)}, 60 * day},
		"a short life is not renewed at once":    {Life{NotBefore: begin, NotAfter: after(100 * time.Second)}, 0, &Window{after(-day), after(-time.Hour)}, time.Second},
		"dated back":                             {Life{NotBefore: after(-time.Hour), NotAfter: after(90 * day)}, 0, &Window{after(-day), after(-time.Hour)}, time.Hour},
		"uploaded before its end":                {Life{NotBefore: after(-89 * day), NotAfter: after(day)}, 0, nil, -8 * day},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.life.Fraction, test.life.Written = test.fraction, begin
			require.Equal(t, after(test.want), At(test.life, test.advice))
		})
	}
}

// Whatever the authority says, a certificate is renewed in its life: not at once, and not when nothing is
// left.
func TestAtIsWithinTheLife(t *testing.T) {
	t.Parallel()
	for range 20000 {
		length := time.Duration(rand.Int64N(int64(400*day))) + time.Minute
		life := Life{NotBefore: begin, NotAfter: after(length), Written: begin, Fraction: rand.Float64()}
		var advice *Window
		if rand.IntN(3) > 0 {
			start := after(time.Duration(rand.Int64N(int64(800*day))) - 400*day)
			advice = &Window{start, start.Add(time.Duration(rand.Int64N(int64(20*day))) - 5*day)}
		}
		at := At(life, advice)
		require.False(t, at.Before(after(min(time.Hour, length/100))), "life %s, advice %v: at %s", length, advice, at)
		require.False(t, at.After(after(length-length/10)), "life %s, advice %v: at %s", length, advice, at)
		require.Equal(t, at, At(life, advice), "asked again")
	}
}

func TestFractionsAreSpread(t *testing.T) {
	t.Parallel()
	var tenths [10]int
	for i := range 10000 {
		f := FractionOf([]byte{byte(i >> 8), byte(i)})
		require.True(t, f >= 0 && f <= 1)
		tenths[min(int(f*10), 9)]++
	}
	for _, n := range tenths {
		require.InDelta(t, 1000, n, 200)
	}
}

func TestAdviceAgain(t *testing.T) {
	t.Parallel()
	require.Equal(t, after(6*time.Hour), AdviceAgain(begin, 0))
	require.Equal(t, after(time.Hour), AdviceAgain(begin, time.Hour))
	require.Equal(t, after(time.Minute), AdviceAgain(begin, time.Second))
	require.Equal(t, after(day), AdviceAgain(begin, 30*day))
}
