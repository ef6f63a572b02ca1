package wire

import (
	"testing"

	"github.com/shoenig/test/must"
)

func TestRoundTrip(t *testing.T) {
	p := Payload{Argv: []string{"a", "", "b\xff"}, Env: []string{"A=", "B=\n=x"}, Unset: []string{"C"}}
	b, err := Encode(p)
	must.NoError(t, err)
	n, err := BodyLen(b[:HeaderLen])
	must.NoError(t, err)
	must.Eq(t, len(b)-HeaderLen, n)
	got, err := Decode(b[HeaderLen:])
	must.NoError(t, err)
	must.Eq(t, p, got)

	b[4]++
	_, err = BodyLen(b[:HeaderLen])
	must.ErrorIs(t, err, errVersion)
	_, err = BodyLen(b[:HeaderLen-1])
	must.ErrorIs(t, err, errFormat)
}

// What is decoded is what would be encoded, and nothing makes Decode panic or allocate out of
// proportion.
func FuzzDecode(f *testing.F) {
	b, _ := Encode(Payload{Argv: []string{"a", "b"}, Env: []string{"A=1"}, Unset: []string{"C"}})
	f.Add(b[HeaderLen:])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := Decode(body)
		if err != nil {
			return
		}
		again, err := Encode(p)
		if err == nil {
			must.Eq(t, string(body), string(again[HeaderLen:]))
		}
	})
}
