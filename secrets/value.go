package secrets

import (
	"bytes"
	"fmt"
	"io"
)

// redacted is what every printed form of a secret says.
const redacted = "[redacted]"

// Value is a secret's content: any bytes at all. It prints as "[redacted]" for every verb, in JSON
// and in hclog (L4); the one way to its content is Bytes or Text, so that a reader of the code
// finds each place where a secret leaves the type.
//
// The content is behind two pointers because fmt cannot call the methods of an unexported field: a
// struct that holds a Value in one would print the bytes. It follows one pointer at times (for a verb
// that does not fit), never two, and so prints an address. Values are not comparable with ==, which
// would compare addresses; use Equal.
type Value struct {
	_ [0]func()
	p **[]byte
}

// NewValue takes ownership of b.
func NewValue(b []byte) Value {
	p := &b
	return Value{p: &p}
}

// TextValue makes a Value of a string's bytes.
func TextValue(s string) Value { return NewValue([]byte(s)) }

// Bytes is the content. The caller must not modify it.
func (v Value) Bytes() []byte {
	if v.p == nil {
		return nil
	}
	return **v.p
}

// Text is the content as a string.
func (v Value) Text() string { return string(v.Bytes()) }

// Len is the content's length in bytes.
func (v Value) Len() int { return len(v.Bytes()) }

// IsEmpty reports whether there is no content.
func (v Value) IsEmpty() bool { return v.Len() == 0 }

// Equal reports whether both have the same content. It does not take constant time: it compares
// secrets with secrets, never with a guess from outside.
func (v Value) Equal(o Value) bool { return bytes.Equal(v.Bytes(), o.Bytes()) }

func (v Value) String() string   { return redacted }
func (v Value) GoString() string { return redacted }

// Format makes every fmt verb, %x and %v with flags included, print the same word.
func (v Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

func (v Value) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (v Value) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
