package authority

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-acme/lego/v5/acme"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/renew"
)

// Error is a failure to get something from the authority.
type Error struct {
	Failure    renew.Failure
	RetryAfter time.Duration // what the authority asked for, 0 if it did not
	err        error
}

func (e *Error) Error() string { return e.err.Error() }

func (e *Error) Unwrap() error { return e.err }

// classify finds an error's kind from the problem that the authority named, if it named one.
func classify(err error, noted *notes) *Error {
	if known := new(Error); errors.As(err, &known) {
		return known
	}
	e := &Error{Failure: renew.Unavailable, err: err}
	if noted != nil {
		e.RetryAfter = noted.retryAfter()
	}
	var limited *acme.RateLimitedError
	if errors.As(err, &limited) {
		e.Failure, e.RetryAfter = renew.RateLimited, max(e.RetryAfter, limited.RetryAfter)
		return e
	}
	var problem *acme.ProblemDetails
	if errors.As(err, &problem) {
		e.Failure = kindOf(problem)
	}
	return e
}

// kinds are the failures by ACME's error types. What is not here is Refused if the authority answered
// with a 4xx status.
var kinds = map[string]renew.Failure{
	acme.RateLimitedErrorType:             renew.RateLimited,
	acme.ServerInternalErrorType:          renew.Unavailable,
	acme.BadNonceErrorType:                renew.Unavailable,
	acme.OrderNotReadyErrorType:           renew.Unavailable,
	acme.AccountDoesNotExistErrorType:     renew.Unavailable,
	acme.MalformedErrorType:               renew.Misconfigured,
	acme.InvalidProfileErrorType:          renew.Misconfigured,
	acme.BadCSRErrorType:                  renew.Misconfigured,
	acme.BadPublicKeyErrorType:            renew.Misconfigured,
	acme.BadSignatureAlgorithmErrorType:   renew.Misconfigured,
	acme.ExternalAccountRequiredErrorType: renew.Misconfigured,
	acme.InvalidContactErrorType:          renew.Misconfigured,
	acme.UnsupportedContactErrorType:      renew.Misconfigured,
	acme.UserActionRequiredErrorType:      renew.Misconfigured,
}

func kindOf(p *acme.ProblemDetails) renew.Failure {
	switch kind, known := kinds[p.Type]; {
	case known:
		return kind
	case p.HTTPStatus == http.StatusTooManyRequests:
		return renew.RateLimited
	case p.HTTPStatus >= http.StatusInternalServerError:
		return renew.Unavailable
	}
	return renew.Refused // a validation's problem has no status of its own
}

func isUnknownAccount(err error) bool {
	var problem *acme.ProblemDetails
	return errors.As(err, &problem) && problem.Type == acme.AccountDoesNotExistErrorType
}

// notes passes a client's requests on and notes the last Retry-After of a refusal: lego passes on that
// of rate limits alone, and a 503 may have one, too. A request without a deadline of its own ends with the order.
type notes struct {
	next http.RoundTripper
	ctx  context.Context

	mu    sync.Mutex
	until time.Time
}

func (n *notes) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := n.ctx.Err(); err != nil {
		return nil, fmt.Errorf("the order has ended: %w", context.Cause(n.ctx))
	}
	resp, err := n.next.RoundTrip(req)
	if err == nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable) {
		if wait := parseRetryAfter(resp.Header.Get("Retry-After"), time.Now()); wait > 0 {
			n.mu.Lock()
			n.until = time.Now().Add(wait)
			n.mu.Unlock()
		}
	}
	return resp, err
}

func (n *notes) retryAfter() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.until.IsZero() {
		return 0
	}
	return max(0, time.Until(n.until))
}

// maxRetryAfter bounds what an authority can ask for.
const maxRetryAfter = 7 * 24 * time.Hour

// parseRetryAfter reads seconds or a date.
func parseRetryAfter(value string, now time.Time) time.Duration {
	wait := time.Duration(0)
	if seconds, err := strconv.ParseInt(strings.TrimSpace(value), 10, 32); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// NewError is an error of a kind.
func NewError(failure renew.Failure, retryAfter time.Duration, err error) *Error {
	return &Error{Failure: failure, RetryAfter: retryAfter, err: err}
}
