package renew

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"time"
)

// Window is a time in which an authority wants a certificate to be renewed (ARI, RFC 9773).
type Window struct{ Start, End time.Time }

// valid: the RFC calls a window that does not end after its start no answer.
func (w Window) valid() bool { return w.End.After(w.Start) }

// Life is what matters of a certificate.
type Life struct {
	NotBefore, NotAfter time.Time
	// Written is when it came to where it is kept: authorities date certificates back.
	Written time.Time
	// Fraction spreads certificates over their windows: 0 to 1, and always the same for one certificate, so
	// that asking again does not draw again.
	Fraction float64
}

// Length is the whole life.
func (l Life) Length() time.Duration { return l.NotAfter.Sub(l.NotBefore) }

// FractionOf is a certificate's fraction, from its serial number.
func FractionOf(serial []byte) float64 {
	sum := sha256.Sum256(serial)
	return float64(binary.BigEndian.Uint64(sum[:8])) / math.MaxUint64
}

const (
	// spread is the part of a life over which certificates without the authority's advice are spread. It ends
	// where a third of the life is left.
	spread = 20
	// latest is the part of a life that is left at the latest, whatever the authority advises.
	latest = 10
	// settle is how long a new certificate is kept at least, or a hundredth of its life if that is shorter: an
	// authority that always answered "now" would otherwise be asked for one after the other.
	settle = time.Hour
)

// At is when a certificate is to be renewed: in the authority's window if it gave one, else when a third of
// its life is left.
func At(life Life, advice *Window) time.Time {
	window := fallback(life)
	if advice != nil && advice.valid() {
		window = *advice
	}
	at := window.Start.Add(time.Duration(life.Fraction * float64(window.End.Sub(window.Start))))
	if first := life.Written.Add(min(settle, life.Length()/100)); at.Before(first) {
		at = first
	}
	if last := life.NotAfter.Add(-life.Length() / latest); at.After(last) {
		at = last
	}
	return at
}

func fallback(life Life) Window {
	end := life.NotAfter.Add(-life.Length() / 3)
	return Window{Start: end.Add(-life.Length() / spread), End: end}
}

const (
	// minAdvice and maxAdvice bound how often the authority is asked for its advice, as the RFC wants it.
	minAdvice     = time.Minute
	maxAdvice     = 24 * time.Hour
	defaultAdvice = 6 * time.Hour
)

// AdviceAgain is when to ask the authority again, by the Retry-After of its last answer, 0 if it gave none.
func AdviceAgain(now time.Time, retryAfter time.Duration) time.Time {
	if retryAfter == 0 {
		retryAfter = defaultAdvice
	}
	return now.Add(min(max(retryAfter, minAdvice), maxAdvice))
}
