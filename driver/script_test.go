package driver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
)

// A script that takes longer than it may is not waited for: the session would never act again.
func TestScriptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		script := func() (*drivers.ExecTaskResult, error) {
			<-hang
			return nil, errors.New("its container is gone")
		}
		tk := &task{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		_, err := tk.awaitScript(ctx, time.Minute, script)
		must.EqError(t, err, "not done after 1m0s")
		must.Eq(t, time.Minute, time.Since(begin))

		ended, end := context.WithCancel(t.Context())
		end()
		_, err = tk.awaitScript(ended, time.Minute, script) // the session's end
		must.ErrorIs(t, err, context.Canceled)

		close(hang) // as the task's end does
		tk.scripts.Wait()
	})
}

func TestScriptOutcome(t *testing.T) {
	for _, test := range []struct {
		name string
		res  drivers.ExitResult
		err  error
		exit int
		fail bool
	}{
		{name: "success"},
		{name: "exit code", res: drivers.ExitResult{ExitCode: 3}, exit: 3},
		{name: "cannot run", err: errors.New("no such file"), fail: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			exit, err := new(task).awaitScript(t.Context(), time.Minute, func() (*drivers.ExecTaskResult, error) {
				return &drivers.ExecTaskResult{ExitResult: &test.res}, test.err
			})
			must.Eq(t, test.exit, exit)
			must.Eq(t, test.fail, err != nil)
		})
	}
}
