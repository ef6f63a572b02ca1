package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestFramesComeBackAsTheyWereSent(t *testing.T) {
	sent := []Message{
		{Type: Hello, Number: 1, Feeder: "docker"},
		{Type: Declare, Number: 2, Directory: &Directory{Name: "a-1", UID: 1000, GID: 7, Mode: 0o400, StaleMS: 3600_000, Listing: true}},
		{Type: Set, Number: 3, Dir: "a-1", AgeMS: 5, Fields: []Field{{"user", 3}, {"tls/key", 2}, {"empty", 0}}},
		{Type: Reads, Read: []Read{{Dir: "a-1", Path: "user", UID: 1, PID: 2, Result: OK, UnixMS: 3}}, Active: []string{"a-1"}, Lost: 4},
		{Type: Answer, Number: 1, Server: &Server{PID: 3, Root: "/run/x"}},
	}
	var buf bytes.Buffer
	for _, m := range sent {
		if m.Type == Set {
			must.NoError(t, Write(&buf, m, []byte("bob"), []byte("\x00\xff"), nil))
		} else {
			must.NoError(t, Write(&buf, m))
		}
	}
	for _, m := range sent {
		got, values, err := ReadMessage(&buf)
		must.NoError(t, err)
		must.Eq(t, m, got)
		if m.Type == Set {
			must.Eq(t, "bob\x00\xff", string(buf.Next(values)))
		}
	}
	_, _, err := ReadMessage(&buf)
	must.ErrorIs(t, err, io.EOF)
}

func TestWhatNoPeerSendsIsRefused(t *testing.T) {
	set := func(fields ...Field) Message { return Message{Type: Set, Dir: "d", Fields: fields} }
	for _, c := range []struct {
		name   string
		m      Message
		values int
	}{
		{"unknown type", Message{Type: "x"}, 0},
		{"no feeder", Message{Type: Hello}, 0},
		{"a feeder that is a path", Message{Type: Hello, Feeder: "../x"}, 0},
		{"no directory", Message{Type: Declare}, 0},
		{"a directory named ..", Message{Type: Declare, Directory: &Directory{Name: "..", Mode: 0o400}}, 0},
		{"a colon", Message{Type: Withdraw, Dir: "a:b"}, 0},
		{"a slash", Message{Type: Withdraw, Dir: "a/b"}, 0},
		{"setuid", Message{Type: Declare, Directory: &Directory{Name: "d", Mode: 0o4400}}, 0},
		{"writable", Message{Type: Declare, Directory: &Directory{Name: "d", Mode: 0o600}}, 0},
		{"negative stale", Message{Type: Declare, Directory: &Directory{Name: "d", Mode: 0o400, StaleMS: -1}}, 0},
		{"values of a ping", Message{Type: Ping}, 1},
		{"fewer values than fields", set(Field{"a", 2}), 1},
		{"negative size", set(Field{"a", 5}, Field{"b", -4}), 1},
		{"too large", set(Field{"a", MaxValue + 1}), MaxValue + 1},
		{"twice", set(Field{"a", 0}, Field{"a", 0}), 0},
		{"file and folder", set(Field{"a", 0}, Field{"a/b/c", 0}), 0},
		{"empty name", set(Field{"", 0}), 0},
		{"dot dot", set(Field{"a/../b", 0}), 0},
		{"absolute", set(Field{"/a", 0}), 0},
		{"NUL", set(Field{"a\x00b", 0}), 0},
		{"long name", set(Field{strings.Repeat("n", 256), 0}), 0},
		{"long path", set(Field{strings.Repeat(strings.Repeat("n", 99)+"/", 11) + "n", 0}), 0},
		{"deep path", set(Field{strings.Repeat("n/", MaxDepth+1) + "n", 0}), 0},
		{"names that are too much together", set(longNames(MaxNames/MaxPath + 1)...), 0},
		{"not UTF-8", set(Field{"n\xff", 0}), 0},
		{"future", Message{Type: Fresh, Dir: "d", AgeMS: -1}, 0},
	} {
		must.Error(t, c.m.check(c.values), must.Sprint(c.name))
	}
}

// longNames are fields whose names JSON makes six times as long.
func longNames(n int) (fields []Field) {
	for i := range n {
		name := fmt.Sprintf("%s/%06d", strings.Repeat(strings.Repeat("<", 200)+"/", 5), i)
		fields = append(fields, Field{Path: strings.Replace(name, "//", "/", 1) + strings.Repeat("<", MaxPath-len(name)+1)})
	}
	return fields
}

// What may be in a set can be sent: a message that cannot, to no file server, would be tried over and over.
func TestTheLongestNamesCanBeSent(t *testing.T) {
	m := Message{Type: Set, Dir: "d", Fields: longNames(MaxNames / MaxPath)}
	must.Eq(t, MaxPath, len(m.Fields[0].Path))
	var buf bytes.Buffer
	must.NoError(t, Write(&buf, m))
	_, _, err := ReadMessage(&buf)
	must.NoError(t, err)
}

func TestALengthThatIsALieTakesNoMemory(t *testing.T) {
	header := make([]byte, headerLen)
	binary.BigEndian.PutUint32(header, maxMessage)
	_, _, err := ReadMessage(bytes.NewReader(append(header, "{"...)))
	must.ErrorIs(t, err, io.ErrUnexpectedEOF)

	binary.BigEndian.PutUint32(header, 1<<31)
	_, _, err = ReadMessage(bytes.NewReader(header))
	must.ErrorContains(t, err, "the bounds are")
}

// FuzzReadMessage: whatever is read is an error, or a message that can be sent again as it is.
func FuzzReadMessage(f *testing.F) {
	for _, m := range []Message{
		{Type: Hello, Feeder: "f"}, {Type: Ping, Number: 1}, {Type: Fresh, Dir: "d", AgeMS: 3},
		{Type: Declare, Directory: &Directory{Name: "d", Mode: 0o400}},
	} {
		var buf bytes.Buffer
		must.NoError(f, Write(&buf, m))
		f.Add(buf.Bytes())
	}
	var buf bytes.Buffer
	must.NoError(f, Write(&buf, Message{Type: Set, Dir: "d", Fields: []Field{{"a/b", 1}, {"c", 2}}}, []byte("1"), []byte("22")))
	f.Add(buf.Bytes())

	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		m, values, err := ReadMessage(r)
		if err != nil {
			return
		}
		sum := 0
		for _, field := range m.Fields {
			must.NoError(t, CheckPath(field.Path))
			sum += field.Size
		}
		must.Eq(t, sum, values)
		if values > 1<<16 {
			return // to write it again takes time, and shows no more
		}
		var again bytes.Buffer
		must.NoError(t, Write(&again, m, make([]byte, values)))
		back, n, err := ReadMessage(&again)
		must.NoError(t, err)
		must.Eq(t, values, n)
		must.Eq(t, m.Type, back.Type)
		must.Eq(t, len(m.Fields), len(back.Fields))
	})
}
