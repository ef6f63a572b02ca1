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
	Rotated(why Cause, how secrets.Mode, was Result)
	// Renewed is told of each attempt to extend a lease, or a token of ours.
	Renewed(was Result)
	// Requested is told of each request to a provider, and how long that took, waits for its turn aside.
	Requested(what Operation, was Result, took time.Duration)
}

type noMeter struct{}

func (noMeter) Rotated(Cause, secrets.Mode, Result)        {}
func (noMeter) Renewed(Result)                             {}
func (noMeter) Requested(Operation, Result, time.Duration) {}

// Operation is what a provider is asked for.
type Operation string

// The operations.
const (
	OperationRead        Operation = "read"
	OperationWait        Operation = "wait" // for a change: it takes as long as nothing changes
	OperationDiscover    Operation = "discover"
	OperationLogin       Operation = "login"
	OperationRenewToken  Operation = "renew_token"
	OperationLookupToken Operation = "lookup_token"
	OperationRevokeToken Operation = "revoke_token"
	OperationRenewLease  Operation = "renew_lease"
	OperationLookupLease Operation = "lookup_lease"
	OperationRevokeLease Operation = "revoke_lease"
)

// Result is what came of a request, a renewal or a rotation: the kind of the error, if there was one.
type Result string

// The results.
const (
	ResultOK        Result = "ok"
	ResultOutage    Result = "outage"           // the server is away
	ResultElsewhere Result = "outage_elsewhere" // what the server makes credentials in is
	ResultRefused   Result = "refused"
	ResultNotFound  Result = "not_found"
	ResultGone      Result = "gone"
	ResultInvalid   Result = "invalid"
	ResultCanceled  Result = "canceled" // nobody waited for it any more
	ResultError     Result = "error"    // what is of no kind, such as a signal that could not be sent
)

// Results are all there are.
func Results() []Result {
	return []Result{ResultOK, ResultOutage, ResultElsewhere, ResultRefused, ResultNotFound, ResultGone, ResultInvalid, ResultCanceled, ResultError}
}

func resultOf(err error) Result {
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
