package vault

import (
	"strings"
	"time"
)

// rotation is how an engine stores credentials that it changes by a schedule of its own (static roles). Reading
// one makes nothing, so it is polled; once more just after the server has changed it, where the answer tells when that is.
type rotation struct {
	dir string // where on the mount they are
	// The field that tells when the next rotation is: one of these, or neither.
	countdown string // seconds until then. It is another at each read, and no part of the secret (C7)
	moment    string // the time, as RFC 3339. It belongs into settings, too
	// settings are the fields that tell how the role is set up: they change without the credential.
	settings []string
}

// rotations are the engines that have such credentials, by type.
var rotations = map[string]rotation{
	"aws":      {dir: "static-creds/", moment: "expiration", settings: []string{"expiration"}},
	"database": {dir: "static-creds/", countdown: "ttl", settings: []string{"rotation_period", "rotation_schedule", "rotation_window"}},
	"ldap":     {dir: "static-cred/", countdown: "ttl", settings: []string{"rotation_period"}},
	"openldap": {dir: "static-cred/", countdown: "ttl", settings: []string{"rotation_period"}},
}

// rotationOf is how the server rotates what is at a path; false: it does not.
func rotationOf(m mount, path string) (rotation, bool) {
	r, ok := rotations[m.typ]
	return r, ok && m.path != "" && strings.HasPrefix(path, m.path+r.dir)
}

// next is when the server will rotate what it answered, by our clock; zero: it does not tell.
func (r rotation) next(answer reply, data map[string]any) time.Time {
	switch {
	case r.countdown != "":
		if left, ok := secondsIn(data[r.countdown]); ok {
			return answer.at.Add(left) // on whichever clock it was counted
		}
	case r.moment != "":
		text, _ := data[r.moment].(string)
		if when, err := time.Parse(time.RFC3339, text); err == nil {
			return when.Add(-answer.ahead)
		}
	}
	return time.Time{}
}
