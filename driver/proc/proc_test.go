package proc

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

func TestRead(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	must.NoError(t, cmd.Start())
	s, err := Read(cmd.Process.Pid)
	must.NoError(t, err)
	must.EqOp(t, os.Getpid(), s.Parent)
	must.Positive(t, s.Started)
	must.False(t, s.Ended())
	must.NoError(t, cmd.Process.Kill())
	for until := time.Now().Add(10 * time.Second); !s.Ended(); time.Sleep(time.Millisecond) { // a zombie has
		must.True(t, time.Now().Before(until))
		now, err := Read(cmd.Process.Pid)
		must.NoError(t, err)
		must.EqOp(t, s.Started, now.Started)
		s = now
	}
	_ = cmd.Wait()
	_, err = Read(cmd.Process.Pid)
	must.ErrorIs(t, err, os.ErrNotExist)
}

func TestEnded(t *testing.T) {
	for _, test := range []struct {
		state          string
		threads        int
		ended, between bool
	}{
		{"S", 1, false, false}, {"R", 9, false, false}, {"Z", 1, true, false}, {"X", 1, true, false},
		{"Z", 2, false, false}, // its first thread has ended before the others
		{"Z", 0, true, true}, {"X", 0, true, true},
	} {
		s := Stat{state: test.state, threads: test.threads}
		must.EqOp(t, test.ended, s.Ended(), must.Sprint(test))
		must.EqOp(t, test.between, s.Between(), must.Sprint(test))
	}
}
