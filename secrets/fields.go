package secrets

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Fields is the data of one answer: field name → decoded JSON (string, json.Number, bool, nil,
// map[string]any, []any). Like Value it cannot be printed (L4), and for the same reason its
// content is behind two pointers.
type Fields struct {
	_ [0]func()
	p **map[string]any
}

// NewFields takes ownership of m.
func NewFields(m map[string]any) Fields {
	p := &m
	return Fields{p: &p}
}

func (f Fields) content() map[string]any {
	if f.p == nil {
		return nil
	}
	return **f.p
}

// Len is the number of fields at the top.
func (f Fields) Len() int { return len(f.content()) }

// Names are the names of the fields at the top, sorted. Names are no secrets: errors list them.
func (f Fields) Names() []string { return slices.Sorted(maps.Keys(f.content())) }

// firstNames are the first of the names, as many as an error lists.
func (f Fields) firstNames() (first []string) {
	for name := range f.content() {
		i, _ := slices.BinarySearch(first, name)
		if i < maxNames {
			first = slices.Insert(first, i, name)
			first = first[:min(len(first), maxNames)]
		}
	}
	return first
}

// Size is what the fields count against MaxTaskBytes: their JSON, and something for each.
func (f Fields) Size() int { return sizeOf(f.content()) }

// Lookup finds a field by its path: a name, or names joined by dots for a field inside nested
// JSON. A key that itself contains dots is found first, so that no field is out of reach.
func (f Fields) Lookup(path string) (any, bool) { return lookup(f.content(), path) }

func lookup(m map[string]any, path string) (any, bool) {
	if v, ok := m[path]; ok {
		return v, true
	}
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		child, ok := m[path[:i]].(map[string]any)
		if !ok {
			continue
		}
		if v, ok := lookup(child, path[i+1:]); ok {
			return v, true
		}
	}
	return nil, false
}

// errNull is what a field that is null has for a text: an empty variable would hide that the
// server has no value there.
var errNull = errors.New("is null")

// fieldText is how a field is delivered: a string as it is, a number as the server wrote it, true
// or false, and an object or a list as compact JSON.
func fieldText(v any) (Value, error) {
	switch v := v.(type) {
	case nil:
		return Value{}, errNull
	case string:
		return TextValue(v), nil
	case json.Number:
		return TextValue(v.String()), nil
	}
	b, err := compactJSON(v)
	if err != nil {
		return Value{}, errors.New("has no JSON form") // the cause might quote it
	}
	return NewValue(b), nil
}

// compactJSON does not escape HTML's characters: nobody downstream expects \u0026 in a password.
func compactJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// Map is a deep copy of the fields, for a template to work on: some template functions change
// the maps that they are given.
func (f Fields) Map() map[string]any {
	m, _ := deepCopy(f.content()).(map[string]any)
	if m == nil {
		m = map[string]any{}
	}
	return m
}

func deepCopy(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, e := range v {
			m[k] = deepCopy(e)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, e := range v {
			l[i] = deepCopy(e)
		}
		return l
	}
	return v
}

// WithFrom gives the fields with some of them, by name, as they are in o: one that o does not have is left out.
func (f Fields) WithFrom(o Fields, names []string) Fields {
	if len(names) == 0 {
		return f
	}
	m := maps.Clone(f.content())
	for _, name := range names {
		delete(m, name)
		if v, ok := o.content()[name]; ok {
			m[name] = v
		}
	}
	return NewFields(m)
}

// Digest is a keyed hash of the fields, the same for the same content (C7). With a key that never
// leaves the process it tells nobody anything, and may be kept and compared where the fields may not.
func (f Fields) Digest(key []byte) [sha256.Size]byte {
	mac := hmac.New(sha256.New, key)
	_ = f.WriteJSON(mac) // a hash takes everything
	return [sha256.Size]byte(mac.Sum(nil))
}

// WriteJSON writes the fields' content as canonical JSON (keys sorted). It is for the journal's values
// file, and for nothing else.
func (f Fields) WriteJSON(w io.Writer) error {
	b := bufio.NewWriterSize(w, 32<<10)
	writeJSON(b, f.content())
	return b.Flush()
}

// FieldsFromJSON reads back what RevealJSON gave. Its errors never quote the content.
func FieldsFromJSON(b []byte) (Fields, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	m, err := DecodeObject(dec)
	if err != nil {
		return Fields{}, errors.New("fields: not a JSON object")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Fields{}, errors.New("fields: something follows the JSON object")
	}
	return NewFields(m), nil
}

// noField is the error for a field that is not there.
func (f Fields) noField(path string) error {
	if f.Len() == 0 {
		return Errorf(NotFound, "no field %q; there are no fields at all", path)
	}
	return Errorf(NotFound, "no field %q; there are: %s", path, listOf(f.firstNames(), f.Len(), ", "))
}

// String prints nothing of it (L4), and so do all below.
func (f Fields) String() string { return Redacted }

// GoString is %#v.
func (f Fields) GoString() string { return Redacted }

// Format makes every fmt verb print the same word.
func (f Fields) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, Redacted) }

// MarshalText is what text encoders get.
func (f Fields) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalJSON is what JSON encoders get.
func (f Fields) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }
