// Package wire is the protocol between a feeder and the file server: frames over a unix socket.
//
// A frame is a message in JSON and, for a set only, the values' bytes after it:
//
//	uint32 length of the message | uint32 length of the values | message | values
//
// Integers are big-endian. The values stand apart so that the file server can read them from the socket
// straight into locked memory, and so that no message ever has a value in it.
//
// A feeder sends requests, each with a number, and each is answered in turn. The file server also sends on its own:
// what was read, and which directory somebody waits for. A socket speaks one version of the protocol and a file server
// of another version has another socket: so there is nothing to negotiate.
package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Version is in the name of the socket. Raise it with any change of the messages.
const Version = 1

// Bounds of what is accepted. Those on values are the contract with whoever writes secrets (docs/live.md, "Live directories").
const (
	MaxValue  = 1 << 20  // of one field
	MaxNode   = 64 << 20 // of all directories of a file server
	MaxFields = 4096     // of one directory
	MaxName   = 255      // of a file, as everywhere in Linux
	MaxPath   = 1024     // of a field, with its folders
	MaxDepth  = 32       // folders that a field is in
	MaxNames  = 1 << 20  // of all fields of one directory: JSON makes at most six of each byte

	maxMessage = 8 << 20
	headerLen  = 8
	maxDirName = 200
)

// Type says what a message is.
type Type string

// What messages there are.
const (
	Hello    Type = "hello"    // the first: who feeds
	Declare  Type = "declare"  // a directory is to be there
	Set      Type = "set"      // all fields of one version of it
	Fresh    Type = "fresh"    // the secrets server was asked, and what the file server has is current
	Failed   Type = "failed"   // the secrets server was asked, and could not be reached
	Withdraw Type = "withdraw" // a directory is to go
	Ping     Type = "ping"

	Answer Type = "answer" // to the request of the same number
	Reads  Type = "reads"  // what was opened since the last report
	Want   Type = "want"   // somebody waits for a fresh look
	Log    Type = "log"    // a line for the feeder's log
)

// Message is any message: the fields after Number are there where the type needs them.
type Message struct {
	Type   Type   `json:"type"`
	Number uint64 `json:"n,omitempty"`
	Error  string `json:"error,omitempty"` // of an answer: why the request was refused

	Feeder    string     `json:"feeder,omitempty"` // hello
	Server    *Server    `json:"server,omitempty"` // the answer to hello
	Directory *Directory `json:"directory,omitempty"`
	Dir       string     `json:"dir,omitempty"`    // set, fresh, failed, withdraw, want
	AgeMS     int64      `json:"age,omitempty"`    // set, fresh: how long ago the secrets server was asked
	OrLater   bool       `json:"later,omitempty"`  // fresh: an earlier feeder may have said so of a later moment
	Fields    []Field    `json:"fields,omitempty"` // set

	Read   []Read   `json:"read,omitempty"`   // reads
	Active []string `json:"active,omitempty"` // reads: the directories in which somebody looked something up
	Lost   int      `json:"lost,omitempty"`   // reads: how many could not be kept for this report
	Text   string   `json:"text,omitempty"`   // log
}

// Server is what a feeder needs to know of the file server.
type Server struct {
	PID  int    `json:"pid"`
	Root string `json:"root"` // where its file system is mounted; a directory is at Root/Entry(Key, feeder, name)
	Key  string `json:"key"`  // of the names there
}

// Directory is one declared directory.
type Directory struct {
	Name    string `json:"name"`
	UID     uint32 `json:"uid"`
	GID     uint32 `json:"gid"`
	Mode    uint32 `json:"mode"`  // of the files: 0400; a folder can be entered by whoever may read
	StaleMS int64  `json:"stale"` // how long a last value is served without a fresh look
	Listing bool   `json:"listing,omitempty"`
}

// Field is a value's name and length. The values follow the message in the order of their names here.
type Field struct {
	Path string `json:"path"` // may have folders: a/b
	Size int    `json:"size"`
}

// Result says how an open ended.
type Result string

// What may come of a read.
const (
	OK      Result = "ok"
	Unknown Result = "unknown" // no field of that name
	Stale   Result = "stale"   // the secrets server was away for too long
	Full    Result = "full"    // the kernel has as many files of the directory as it may
)

// Read is one open, or a look-up that found nothing.
type Read struct {
	Dir    string `json:"dir"`
	Path   string `json:"path"`
	UID    uint32 `json:"uid"`
	PID    uint32 `json:"pid"` // of the thread, as the host sees it
	Result Result `json:"result"`
	UnixMS int64  `json:"at"`
}

// Entry is a directory's name in the file server's root. It cannot be guessed: a container's root with CAP_DAC_READ_SEARCH
// can open that root by its handle, and would have all of the node's directories.
func Entry(key, feeder, dir string) string {
	name := feeder + ":" + dir
	mac := hmac.New(sha256.New, []byte(key))
	_, _ = io.WriteString(mac, name)
	return name + ":" + hex.EncodeToString(mac.Sum(nil)[:16])
}

// Frame is a message that can be sent.
type Frame struct {
	head   []byte // lengths and message
	values [][]byte
}

// NewFrame makes one. values are the fields' contents, of a set. An error is the message's: it would be the same on any connection.
func NewFrame(m Message, values ...[]byte) (Frame, error) {
	total := 0
	for _, v := range values {
		total += len(v)
	}
	if err := m.check(total); err != nil {
		return Frame{}, err
	}
	body, err := json.Marshal(m)
	if err != nil {
		return Frame{}, err
	}
	if len(body) > maxMessage {
		return Frame{}, fmt.Errorf("a message of %d bytes: the bound is %d", len(body), maxMessage)
	}
	head := make([]byte, headerLen, headerLen+len(body))
	binary.BigEndian.PutUint32(head, uint32(len(body)))
	binary.BigEndian.PutUint32(head[4:], uint32(total))
	return Frame{append(head, body...), values}, nil
}

// Send writes it.
func (f Frame) Send(w io.Writer) error {
	if _, err := w.Write(f.head); err != nil {
		return err
	}
	for _, v := range f.values {
		if _, err := w.Write(v); err != nil {
			return err
		}
	}
	return nil
}

// Write makes a frame and sends it.
func Write(w io.Writer, m Message, values ...[]byte) error {
	f, err := NewFrame(m, values...)
	if err != nil {
		return err
	}
	return f.Send(w)
}

// ReadMessage reads a message, and says how many bytes of values follow it. It is checked: a name in it can be used as one,
// and the values' length is the sum of the fields'. Any error ends the connection: what follows cannot be understood.
func ReadMessage(r io.Reader) (m Message, values int, err error) {
	var header [headerLen]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return Message{}, 0, err
	}
	size := binary.BigEndian.Uint32(header[:])
	total := binary.BigEndian.Uint32(header[4:])
	if size > maxMessage || total > MaxNode {
		return Message{}, 0, fmt.Errorf("a message of %d bytes with %d bytes of values: the bounds are %d and %d", size, total, maxMessage, MaxNode)
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(size))) // grows with what comes, not with what is announced
	if err != nil {
		return Message{}, 0, err
	}
	if len(body) < int(size) {
		return Message{}, 0, io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return Message{}, 0, fmt.Errorf("a message that cannot be understood: %w", err)
	}
	return m, int(total), m.check(int(total))
}

// check refuses what no well-behaved peer sends.
func (m Message) check(values int) error {
	switch m.Type {
	case Hello:
		if err := checkDirName(m.Feeder); err != nil {
			return fmt.Errorf("hello: feeder: %w", err)
		}
	case Declare:
		if m.Directory == nil {
			return errors.New("declare: no directory")
		}
		if err := m.Directory.check(); err != nil {
			return fmt.Errorf("declare: %w", err)
		}
	case Set, Fresh, Failed, Withdraw, Want:
		if err := checkDirName(m.Dir); err != nil {
			return fmt.Errorf("%s: %w", m.Type, err)
		}
		if m.AgeMS < 0 {
			return fmt.Errorf("%s %s: an age of %d ms", m.Type, m.Dir, m.AgeMS)
		}
	case Ping, Answer, Reads, Log:
	default:
		return fmt.Errorf("a message of unknown type %.20q", m.Type)
	}
	if m.Type != Set {
		if values != 0 || len(m.Fields) != 0 {
			return fmt.Errorf("%s: has values", m.Type)
		}
		return nil
	}
	sum, err := checkFields(m.Fields)
	if err != nil {
		return fmt.Errorf("set %s: %w", m.Dir, err)
	}
	if sum != values {
		return fmt.Errorf("set %s: %d bytes of values for fields of %d", m.Dir, values, sum)
	}
	return nil
}

func (d Directory) check() error {
	if err := checkDirName(d.Name); err != nil {
		return err
	}
	if d.Mode&^0o777 != 0 || d.Mode&0o222 != 0 {
		return fmt.Errorf("%s: mode %04o would let somebody write to the files", d.Name, d.Mode)
	}
	if d.StaleMS < 0 {
		return fmt.Errorf("%s: stale after %d ms", d.Name, d.StaleMS)
	}
	return nil
}

// CheckFields reports what is wrong with the fields of a set, in words for whoever wrote the secret.
func CheckFields(fields []Field) error {
	_, err := checkFields(fields)
	return err
}

func checkFields(fields []Field) (sum int, err error) {
	if len(fields) > MaxFields {
		return 0, fmt.Errorf("%d fields: a live directory has at most %d", len(fields), MaxFields)
	}
	files := make(map[string]bool, len(fields))
	names := 0
	for _, f := range fields {
		if err := CheckPath(f.Path); err != nil {
			return 0, err
		}
		if f.Size < 0 || f.Size > MaxValue {
			return 0, fmt.Errorf("field %q has %d bytes: a live directory serves values of at most %d", f.Path, f.Size, MaxValue)
		}
		if files[f.Path] {
			return 0, fmt.Errorf("field %q is there twice", f.Path)
		}
		files[f.Path] = true
		sum += f.Size
		names += len(f.Path)
	}
	if names > MaxNames {
		return 0, fmt.Errorf("the names of the fields have %d bytes: those of a live directory have at most %d", names, MaxNames)
	}
	for _, f := range fields {
		for dir := parent(f.Path); dir != ""; dir = parent(dir) {
			if files[dir] {
				return 0, fmt.Errorf("%q is a field and a folder with %q in it", dir, f.Path)
			}
		}
	}
	if sum > MaxNode {
		return 0, fmt.Errorf("the values have %d bytes: all live directories of a node have at most %d", sum, MaxNode)
	}
	return sum, nil
}

// parent of "a/b" is "a", and of "a" it is "".
func parent(path string) string {
	return path[:max(0, strings.LastIndexByte(path, '/'))]
}

// CheckPath reports why a field of this name cannot be a file.
func CheckPath(path string) error {
	if len(path) > MaxPath {
		return fmt.Errorf("field %.40q…: the name has %d bytes, a live directory serves at most %d", path, len(path), MaxPath)
	}
	if depth := strings.Count(path, "/"); depth > MaxDepth {
		return fmt.Errorf("field %.40q…: it is in %d folders, a live directory has at most %d in each other", path, depth, MaxDepth)
	}
	if !utf8.ValidString(path) {
		return fmt.Errorf("field %.40q: its name is not UTF-8", path)
	}
	for name := range strings.SplitSeq(path, "/") {
		switch {
		case name == "" || name == "." || name == "..":
			return fmt.Errorf("field %q: cannot be the name of a file", path)
		case len(name) > MaxName:
			return fmt.Errorf("field %.40q…: a file's name has at most %d bytes, this one %d", name, MaxName, len(name))
		case strings.ContainsRune(name, 0):
			return fmt.Errorf("field %q: a file's name has no NUL", path)
		}
	}
	return nil
}

// checkDirName is for names of feeders and their directories: they are joined with a colon.
func checkDirName(name string) error {
	if name == "" || len(name) > maxDirName || strings.Trim(name, ".") == "" {
		return fmt.Errorf("%.40q is no name of a directory", name)
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("%.40q is no name of a directory: it has a %q", name, c)
		}
	}
	return nil
}
