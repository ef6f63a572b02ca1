// Package steps runs an operation that is a list of steps, each with its undo beside it: what is begun is finished, or
// nothing of it is left.
package steps

import (
	"context"
	"errors"
)

// Step is one part of an operation.
type Step struct {
	// Do does it. On error nothing of this step is left.
	Do func(ctx context.Context) error
	// Undo rolls it back when a later step fails; nil: it leaves nothing. It is not given the operation's
	// context, which may be why the later step failed.
	Undo func() error
}

// Run does all steps in their order. When one fails, those before it are undone, the last first, and the error is its
// own, with those of the undos.
func Run(ctx context.Context, all ...Step) error {
	for i, step := range all {
		if err := step.Do(ctx); err != nil {
			if left := undo(all[:i]); left != nil {
				err = errors.Join(err, left)
			}
			return err
		}
	}
	return nil
}

func undo(done []Step) error {
	var errs []error
	for i := len(done) - 1; i >= 0; i-- {
		if done[i].Undo != nil {
			errs = append(errs, done[i].Undo())
		}
	}
	return errors.Join(errs...)
}
