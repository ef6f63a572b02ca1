package secrets

import (
	"fmt"
	"io"
)

// Redacted is what every printed form of a secret says.
const Redacted = "[redacted]"

// Value is a secret's content: any bytes at all. It prints as "[redacted]" for every verb, in JSON
// and in hclog (L4); the one way to its content is Bytes or Text, so that a reader of the code
// finds each place where a secret leaves the type.
//
// The content is behind two pointers because fmt cannot call the methods of an unexported field: a
// struct that holds a Value in one would print the bytes. It follows one pointer at times (for a verb
// that does not fit), never two, and so prints an address. Values are not comparable with ==, which
// would compare addresses; use Equal.
//
// It is a string so that what is rendered shares its memory with the answer that it comes from.
type Value struct {
	_ [0]func()
	p **string
}

// NewValue makes a Value of a copy of b.
func NewValue(b []byte) Value { return TextValue(string(b)) }

// TextValue makes a Value of a string, whose memory it shares.
func TextValue(s string) Value {
	p := &s
	return Value{p: &p}
}

// Bytes is a copy of the content.
func (v Value) Bytes() []byte { return []byte(v.Text()) }

// Text is the content as a string.
func (v Value) Text() string {
	if v.p == nil {
		return ""
	}
	return **v.p
}

// Len is the content's length in bytes.
func (v Value) Len() int { return len(v.Text()) }

// IsEmpty reports whether there is no content.
func (v Value) IsEmpty() bool { return v.Len() == 0 }

// Equal reports whether both have the same content. It does not take constant time: it compares
// secrets with secrets, never with a guess from outside.
func (v Value) Equal(o Value) bool { return v.Text() == o.Text() }

// String prints nothing of it (L4), and so do all below.
func (v Value) String() string { return Redacted }

// GoString is %#v.
func (v Value) GoString() string { return Redacted }

// Format makes every fmt verb, %x and %v with flags included, print the same word.
func (v Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Redacted) }

// MarshalText is what text encoders get.
func (v Value) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalJSON is what JSON encoders get.
func (v Value) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }
