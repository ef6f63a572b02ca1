package leakscan

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// form is one way in which a value may be written.
type form struct {
	name string
	text []byte
}

// Lengths of values.
const (
	// MinValue is the least length of a value: shorter ones would be found by chance.
	MinValue = 8
	// longValue and piece: of a longer value its beginning, middle and end are looked for, so that a
	// part of it is found, too, and a file of any size can be a canary.
	longValue = 96
	piece     = 48
)

// formsOf is every form of a value, each text once.
func formsOf(value string) []form {
	var all []form
	seen := map[string]bool{}
	add := func(name string, text []byte) {
		if len(text) >= MinValue && !seen[string(text)] {
			seen[string(text)] = true
			all = append(all, form{name, text})
		}
	}
	for _, part := range pieces(value) {
		for _, escaped := range escapesOf(part) {
			add(escaped.name, escaped.text)
			suffix := ""
			if escaped.name != "plain" {
				suffix = " of " + escaped.name
			}
			for _, text := range base64Of(escaped.text) {
				add("base64"+suffix, text)
			}
			lower := hex.EncodeToString(escaped.text)
			add("hex"+suffix, []byte(lower))
			add("hex"+suffix, []byte(strings.ToUpper(lower)))
		}
	}
	return all
}

func pieces(value string) []string {
	n := len(value)
	if n <= longValue {
		return []string{value}
	}
	return []string{wholeRunes(value[:piece]), wholeRunes(value[(n-piece)/2:][:piece]), wholeRunes(value[n-piece:])}
}

// wholeRunes takes away what a cut left of a character: an escape would show it otherwise than the
// whole one.
func wholeRunes(part string) string {
	for range utf8.UTFMax - 1 {
		if !utf8.RuneStart(part[0]) {
			part = part[1:]
		}
	}
	for range utf8.UTFMax - 1 {
		if r, size := utf8.DecodeLastRuneInString(part); r == utf8.RuneError && size == 1 {
			part = part[:len(part)-1]
		}
	}
	return part
}

// escapesOf is a value as text formats write it.
func escapesOf(value string) []form {
	jsonText := escapeJSON(value, false)
	jsonHTML := escapeJSON(value, true)
	query, path := url.QueryEscape(value), url.PathEscape(value)
	return []form{
		{"plain", []byte(value)},
		{"JSON", []byte(jsonText)},
		{"JSON", []byte(jsonHTML)},
		{"JSON", []byte(strings.ReplaceAll(jsonText, "/", `\/`))},
		{"JSON within JSON", []byte(escapeJSON(jsonText, false))},
		{"JSON within JSON", []byte(escapeJSON(jsonHTML, true))},
		{"Go string", []byte(unquote(strconv.Quote(value)))},
		{"Go string", []byte(unquote(strconv.QuoteToASCII(value)))},
		{"URL", []byte(query)},
		{"URL", []byte(path)},
		{"URL", []byte(lowerPercent(query))},
		{"URL", []byte(lowerPercent(path))},
		{"URL", []byte(escapeAll(value))},
	}
}

// escapeJSON is the inside of a JSON string. Go's encoder escapes <, > and & where html is set, which
// is its default.
func escapeJSON(value string, html bool) string {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(html)
	if enc.Encode(value) != nil { // of a string it cannot fail
		return value
	}
	return unquote(strings.TrimSuffix(out.String(), "\n"))
}

func unquote(s string) string { return s[1 : len(s)-1] }

// lowerPercent writes %2F as %2f.
func lowerPercent(escaped string) string {
	out := []byte(escaped)
	for i := 0; i+2 < len(out); i++ {
		if out[i] == '%' {
			copy(out[i+1:], bytes.ToLower(out[i+1:i+3]))
			i += 2
		}
	}
	return string(out)
}

// escapeAll escapes all but letters, digits and -._~, as RFC 3986 has it: url.PathEscape leaves more.
func escapeAll(value string) string {
	const hexDigits = "0123456789ABCDEF"
	var out strings.Builder
	for i := range len(value) {
		switch c := value[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			out.WriteByte(c)
		default:
			out.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return out.String()
}

// base64Of is the value's part of any base64 text that has the value somewhere in it: the characters
// that no neighbouring byte has a bit in, for each of the three places within a group.
func base64Of(value []byte) [][]byte {
	var all [][]byte
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			text := enc.EncodeToString(append(make([]byte, before), value...))
			first := (before*8 + 5) / 6
			end := (before + len(value)) * 8 / 6
			all = append(all, []byte(text[first:end]))
		}
	}
	return all
}
