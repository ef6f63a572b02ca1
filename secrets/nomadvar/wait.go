package nomadvar

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// none is the revision of what is not there. The index that Nomad gives then is of all variables, and means nothing.
const none = "none"

func revisionOf(index uint64) string { return strconv.FormatUint(index, 10) }

// indexOf is the index to wait beyond; 0: the query is answered at once.
func indexOf(revision string) uint64 {
	index, err := strconv.ParseUint(revision, 10, 64)
	if err != nil {
		return 0 // empty, none, or of another provider's words
	}
	return index
}

// Wait returns when the variable is of another revision than since, or after atMost, to which Nomad adds up to a sixteenth.
// Nothing there is a revision, too. An index that has fallen (Nomad's state was restored) is another revision like any.
func (c *Client) Wait(ctx context.Context, _ secrets.Token, req secrets.Request, since string, atMost time.Duration) (string, error) {
	end := time.Now().Add(atMost)
	beyond := indexOf(since)
	for {
		v, index, err := c.getOnceThere(ctx, req, blocking{beyond, max(time.Until(end), c.pause)})
		if err != nil {
			return "", err
		}
		revision := none
		if v != nil {
			revision = revisionOf(v.ModifyIndex)
		}
		if revision != since || time.Until(end) < c.pause {
			return revision, nil
		}
		if v == nil { // another variable has changed, or this was the first look
			beyond = index
		}
		if err := sleep(ctx, c.pause); err != nil {
			return "", err
		}
	}
}

// getOnceThere is get that gives an agent which has been restarted the time to make its sockets.
func (c *Client) getOnceThere(ctx context.Context, req secrets.Request, wait blocking) (v *api.Variable, index uint64, err error) {
	var end time.Time // set when there is no socket, which may be at the end of a long query
	for {
		v, index, err = c.get(ctx, req, wait)
		missing, ok := errors.AsType[*socketError](err)
		if !ok || missing.tooLong() {
			return v, index, err
		}
		if end.IsZero() {
			end = time.Now().Add(c.socketComes)
		} else if time.Now().After(end) {
			return v, index, err
		}
		if err := sleep(ctx, c.pause/4); err != nil {
			return nil, 0, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return secrets.Errorf(secrets.Outage, "wait for a change: %w", ctx.Err())
	}
}
