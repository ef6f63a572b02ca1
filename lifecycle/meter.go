package lifecycle

import (
	"context"
	"errors"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Meter is told of what a Keeper does, at the moment that it is done. Its methods must not block, and may be called by
// several goroutines.
type Meter interface {
	// Rotated is told of each attempt to give a task another secret, applied or not.
	Rotated(why Cause, how secrets.Mode, was RequestResult)
	// Renewed is told of each attempt to extend a lease, or a token of ours.
	Renewed(was RequestResult)
	// Requested is told of each request to a provider, and how long that took, waits for its turn aside.
	Requested(what RequestKind, was RequestResult, took time.Duration)
}

type noMeter struct{}

func (noMeter) Rotated(Cause, secrets.Mode, RequestResult)          {}
func (noMeter) Renewed(RequestResult)                               {}
func (noMeter) Requested(RequestKind, RequestResult, time.Duration) {}

// RequestKind is what a provider is asked for.
type RequestKind string

// The kinds of requests.
const (
	OperationRead        RequestKind = "read"
	OperationWait        RequestKind = "wait" // for a change: it takes as long as nothing changes
	OperationDiscover    RequestKind = "discover"
	OperationLogin       RequestKind = "login"
	OperationRenewToken  RequestKind = "renew_token"
	OperationLookupToken RequestKind = "lookup_token"
	OperationRevokeToken RequestKind = "revoke_token"
	OperationRenewLease  RequestKind = "renew_lease"
	OperationLookupLease RequestKind = "lookup_lease"
	OperationRevokeLease RequestKind = "revoke_lease"
)

// Operations are all there are.
func Operations() []RequestKind {
	return []RequestKind{
		OperationRead, OperationWait, OperationDiscover, OperationLogin, OperationRenewToken, OperationLookupToken, OperationRevokeToken,
		OperationRenewLease, OperationLookupLease, OperationRevokeLease,
	}
}

// RequestResult is what came of a request, a renewal or a rotation: the kind of the error, if there was one.
type RequestResult string

// The results.
const (
	ResultOK        RequestResult = "ok"
	ResultOutage    RequestResult = "outage"           // the server is away
	ResultElsewhere RequestResult = "outage_elsewhere" // what the server makes credentials in is
	ResultRefused   RequestResult = "refused"
	ResultNotFound  RequestResult = "not_found"
	ResultGone      RequestResult = "gone"
	ResultInvalid   RequestResult = "invalid"
	ResultCanceled  RequestResult = "canceled" // nobody waited for it any more
	ResultError     RequestResult = "error"    // what is of no kind, such as a signal that could not be sent
)

// Results are all there are.
func Results() []RequestResult {
	return []RequestResult{ResultOK, ResultOutage, ResultElsewhere, ResultRefused, ResultNotFound, ResultGone, ResultInvalid, ResultCanceled, ResultError}
}

func resultOf(err error) RequestResult {
	switch {
	case err == nil:
		return ResultOK
	case errors.Is(err, context.Canceled):
		return ResultCanceled
	case secrets.IsElsewhere(err):
		return ResultElsewhere
	}
	switch secrets.KindOf(err) {
	case secrets.Outage:
		return ResultOutage
	case secrets.Refused:
		return ResultRefused
	case secrets.NotFound:
		return ResultNotFound
	case secrets.Gone:
		return ResultGone
	case secrets.Invalid:
		return ResultInvalid
	}
	return ResultError
}

// count has an attempt to apply a change counted.
func (s *Session) count(c *change, err error) {
	s.k.cfg.Meter.Rotated(c.cause(), c.change.Mode, resultOf(err))
}
