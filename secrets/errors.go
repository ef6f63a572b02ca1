package secrets

import (
	"errors"
	"fmt"
	"time"
)

// ErrorKind sorts what can go wrong by what helps: waiting, asking anew, or a person.
type ErrorKind int

const (
	// Outage is no connection, 5xx, sealed, 412, 429, a lagging standby. Waiting helps.
	Outage ErrorKind = iota + 1
	// Refused is a 403. Somebody must change a policy or a role.
	Refused
	// NotFound is a 404. Nothing is at the path, or the field is not in the secret.
	NotFound
	// Gone means that the lease or the token named is not known to the server any more. Asking anew helps.
	Gone
	// Invalid is a 400, and input refused before any request. Somebody must change the job.
	Invalid
)

func (k ErrorKind) String() string {
	switch k {
	case Outage:
		return "outage"
	case Refused:
		return "refused"
	case NotFound:
		return "not found"
	case Gone:
		return "gone"
	case Invalid:
		return "invalid"
	}
	return fmt.Sprintf("ErrorKind(%d)", int(k))
}

// Error is an error of a kind. Its text says what was being done to what, what the server
// answered and the remedy; it never quotes a secret.
type Error struct {
	Kind ErrorKind
	Err  error
	// Elsewhere says of an Outage that it is not the secrets server's own. That answers, but what it makes
	// credentials in (a database, a broker, AWS) does not.
	Elsewhere bool
	// OfServer says of an Outage that it is of the server as a whole: it could not be reached, or takes no requests.
	OfServer bool
	// Limited says of an Outage that the server wants fewer requests (429), RetryAfter for how long; zero: it does not say.
	Limited    bool
	RetryAfter time.Duration
	// OfAsker says of an Outage that it may be of who asked, and not of the server: another task may be answered.
	OfAsker bool
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error of kind k; it takes %w as fmt.Errorf does.
func Errorf(k ErrorKind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// IsElsewhere reports whether err is of an outage elsewhere.
func IsElsewhere(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Elsewhere
}

// IsOfServer reports whether err is of an outage of the server as a whole.
func IsOfServer(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.OfServer
}

// IsLimited reports whether err is of a server that wants fewer requests.
func IsLimited(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Limited
}

// RetryAfter is how long a server wants to be left alone, by err; zero: it does not say.
func RetryAfter(err error) time.Duration {
	var e *Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.RetryAfter
}

// IsOfAsker reports whether err is of an outage that another task need not have.
func IsOfAsker(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.OfAsker
}

// KindOf is the kind of the outermost Error in err's chain; 0 if there is none.
func KindOf(err error) ErrorKind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}
