// Package redact takes credentials out of texts that are not ours: a provider's error may have the URL of a
// request in it, and the URL a token.
package redact

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// credential matches the names of variables whose values are credentials.
var credential = regexp.MustCompile(`(?i)(token|key|secret|passw|pass$|pwd|credential|auth|hmac|login|cookie|session)`)

// shortest is the length from which a value is taken for a credential: shorter ones are words such as "true".
const shortest = 6

// Redactor replaces known credentials.
type Redactor struct{ replacer *strings.Replacer }

// New knows the credentials among variables, given as NAME=VALUE.
func New(environ []string) *Redactor {
	var values []string
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		// What NAME_FILE names is a path.
		if len(value) < shortest || !credential.MatchString(name) || strings.HasSuffix(name, "_FILE") {
			continue
		}
		values = append(values, value, url.QueryEscape(value), url.PathEscape(value))
	}
	// The longest first: one may be a part of another.
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, value := range slices.Compact(values) {
		pairs = append(pairs, value, "[redacted]")
	}
	return &Redactor{strings.NewReplacer(pairs...)}
}

// String is the text without them.
func (r *Redactor) String(text string) string { return r.replacer.Replace(text) }
