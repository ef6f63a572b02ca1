package wire

import (
	"testing"

	"github.com/shoenig/test/must"
)

func TestRoundTrip(t *testing.T) {
	for _, limit := range []*Limit{nil, {Soft: 1, Hard: 1}, {Soft: 0, Hard: 1<<64 - 1}} {
		roundTrip(t, Payload{Argv: []string{"a", "", "b\xff"}, Env: []string{"A=", "B=\n=x"}, Unset: []string{"C"}, Processes: limit})
	}
}

func roundTrip(t *testing.T, p Payload) {
	b, err := Encode(Version, p)
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

// A container that an older driver started has an older launcher, which knows of no limits.
func TestOlderVersion(t *testing.T) {
	with, without := Payload{Argv: []string{"a"}, Processes: &Limit{1, 1}}, Payload{Argv: []string{"a"}}
	b, err := Encode(InSecrets, with)
	must.NoError(t, err)
	must.Eq(t, "NDSL\x01\x00\x00\x00\x00\x00\x00\x11"+
		"\x00\x00\x00\x01\x00\x00\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x00", string(b))
	again, err := Encode(InSecrets, without)
	must.NoError(t, err)
	must.Eq(t, b, again)
}

// What is decoded is what would be encoded, and nothing makes Decode panic or allocate out of
// proportion.
func FuzzDecode(f *testing.F) {
	b, _ := Encode(Version, Payload{Argv: []string{"a", "b"}, Env: []string{"A=1"}, Unset: []string{"C"}, Processes: &Limit{1, 2}})
	f.Add(b[HeaderLen:])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := Decode(body)
		if err != nil {
			return
		}
		again, err := Encode(Version, p)
		if err == nil {
			must.Eq(t, string(body), string(again[HeaderLen:]))
		}
	})
}
