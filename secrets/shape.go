package secrets

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// CheckShape refuses JSON that would take many times its length once decoded, or whose nesting would make
// what walks it deep. It looks at the bytes alone, and allocates nothing. What is not valid JSON is the
// decoder's to refuse.
func CheckShape(b []byte) error {
	nodes, depth := 1, 0
	inString := false
	for i := 0; i < len(b); i++ {
		c := b[i]
		if inString {
			switch c {
			case '\\':
				i++
			case '"':
				inString = false
			}
			continue
		}
		switch c {
		case '"':
			inString = true
		case ',':
			nodes++
		case '{', '[':
			nodes++
			depth++
		case '}', ']':
			depth--
		}
		if nodes > maxNodes {
			return Limitf("the answer holds more than %d fields and values, which is the most for one secret; split the secret", maxNodes)
		}
		if depth > maxNesting {
			return Limitf("the answer is nested more than %d deep, which is the most for one secret", maxNesting)
		}
	}
	return nil
}

// sizeOf is what a value of an answer takes: its JSON, which is what is journalled of it, and something for
// each part of it.
func sizeOf(v any) int {
	n := nodeBytes
	switch v := v.(type) {
	case string:
		n += jsonLen(v)
	case json.Number:
		n += len(v)
	case map[string]any:
		for k, e := range v {
			n += jsonLen(k) + sizeOf(e)
		}
	case []any:
		for _, e := range v {
			n += sizeOf(e)
		}
	}
	return n
}

// jsonLen is the length of a string in JSON.
func jsonLen(s string) int {
	n := len(s) + 2
	for i := range len(s) {
		n += len(escapes[s[i]])
		if escapes[s[i]] != "" {
			n--
		}
	}
	return n
}

// escapes are what stands for a byte in a string's JSON; "" is the byte itself.
var escapes = func() (all [256]string) {
	for c := range 0x20 {
		all[c] = fmt.Sprintf(`\u%04x`, c)
	}
	all['\b'], all['\f'], all['\n'], all['\r'], all['\t'] = `\b`, `\f`, `\n`, `\r`, `\t`
	all['"'], all['\\'] = `\"`, `\\`
	return all
}()

// DecodeObject reads an object, part by part: json's Decode would first take a copy of the whole text, and
// several while that grows. Numbers are as dec has them.
func DecodeObject(dec *json.Decoder) (map[string]any, error) {
	first, err := dec.Token()
	if err != nil {
		return nil, err
	}
	if first != json.Delim('{') {
		return nil, ErrNotObject
	}
	return decodeFields(dec)
}

// ErrNotObject is of JSON that is something else than an object.
var ErrNotObject = errors.New("not a JSON object")

// decodeFields is DecodeObject after the object's begin.
func decodeFields(dec *json.Decoder) (map[string]any, error) {
	m := map[string]any{}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, ok := key.(string)
		if !ok {
			return nil, ErrNotObject
		}
		if m[name], err = DecodeValue(dec); err != nil {
			return nil, err
		}
	}
	_, err := dec.Token()
	return m, err
}

// DecodeValue reads a value, part by part.
func DecodeValue(dec *json.Decoder) (any, error) {
	v, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch v {
	case json.Delim('{'):
		return decodeFields(dec)
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			e, err := DecodeValue(dec)
			if err != nil {
				return nil, err
			}
			list = append(list, e)
		}
		_, err := dec.Token()
		return list, err
	}
	return v, nil
}

// writeJSON writes a value of an answer as canonical JSON, with its keys sorted, and takes no copy of it. An
// error of w's comes with its Flush.
func writeJSON(w *bufio.Writer, v any) {
	switch v := v.(type) {
	case string:
		writeString(w, v)
	case map[string]any:
		sep := "{"
		for _, k := range slices.Sorted(maps.Keys(v)) {
			w.WriteString(sep)
			writeString(w, k)
			w.WriteString(":")
			writeJSON(w, v[k])
			sep = ","
		}
		if len(v) == 0 {
			w.WriteString("{")
		}
		w.WriteString("}")
	case []any:
		sep := "["
		for _, e := range v {
			w.WriteString(sep)
			writeJSON(w, e)
			sep = ","
		}
		if len(v) == 0 {
			w.WriteString("[")
		}
		w.WriteString("]")
	case json.Number:
		w.WriteString(v.String())
	case bool:
		w.WriteString(strconv.FormatBool(v))
	default:
		w.WriteString("null")
	}
}

func writeString(w *bufio.Writer, s string) {
	w.WriteByte('"')
	from := 0
	for i := range len(s) {
		if e := escapes[s[i]]; e != "" {
			w.WriteString(s[from:i])
			w.WriteString(e)
			from = i + 1
		}
	}
	w.WriteString(s[from:])
	w.WriteByte('"')
}
