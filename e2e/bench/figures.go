package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// line is one of the table's: what was measured, and the figure of each variant; empty: there is none.
type line struct {
	what    string
	figures [variants]string
}

func (l line) String() string {
	var b strings.Builder
	b.WriteString(l.what + ":")
	for v, figure := range l.figures {
		if figure != "" {
			fmt.Fprintf(&b, " %s %s;", variant(v), figure)
		}
	}
	return strings.TrimSuffix(b.String(), ";")
}

// one is a line of ours alone.
func one(what, figure string) line { return line{what, [variants]string{ours: figure}} }

func median[T cmp.Ordered](all []T) T { return quantile(all, 0.5) }

func quantile[T cmp.Ordered](all []T, q float64) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

// millis is the median of some durations, and the middle half of them.
func millis(all []time.Duration) string {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	figure := func(d time.Duration) string {
		if ms(d) < 10 {
			return fmt.Sprintf("%.1f", ms(d))
		}
		return fmt.Sprintf("%.0f", ms(d))
	}
	if len(all) == 1 {
		return figure(all[0])
	}
	return fmt.Sprintf("%s (%s–%s)", figure(median(all)), figure(quantile(all, 0.25)), figure(quantile(all, 0.75)))
}

// more is how much more one median is than another.
func more(with, without []time.Duration) string {
	return fmt.Sprintf("%+.0f%%", 100*(float64(median(with))/float64(median(without))-1))
}

// mib is a size in MiB.
func mib(bytes uint64) string { return fmt.Sprintf("%.0f", float64(bytes)/(1<<20)) }
