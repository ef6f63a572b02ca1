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

func TestParseStatus(t *testing.T) {
	s, err := parseStatus("Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nCapEff:\t000001ffffffffff\n")
	must.NoError(t, err)
	must.Eq(t, Status{Users: IDs{1, 2, 3, 4}, Groups: IDs{5, 6, 7, 8}, Capabilities: 1<<41 - 1}, s)
}

func TestStatusIsRoots(t *testing.T) {
	const rest = "\nGid:\t0\t0\t0\t0\nCapEff:\t0000000000000000\n"
	for status, want := range map[string]bool{
		"Name:\tx\nUid:\t0\t0\t0\t0":                true,
		"Name:\tUid:\nUid:\t0\t0\t0\t0":             true,
		"Name:\tx\nUid:\t4242\t0\t0\t0":             false, // a program that is set to run as root
		"Name:\tx\nUid:\t4242\t4242\t0\t4242":       false,
		"Name:\tUid:\t0\t0\t0\t0\nUid:\t1\t1\t1\t1": false,
		"Name:\tx":                   false,
		"Name:\tx\nUid:\t0\t0":       false,
		"Name:\tx\nUid:\tr\to\to\tt": false,
	} {
		s, err := parseStatus(status + rest)
		must.Eq(t, want, err == nil && s.Roots(), must.Sprint(status))
	}
}

func TestReadStatus(t *testing.T) {
	s, err := ReadStatus(os.Getpid())
	must.NoError(t, err)
	must.EqOp(t, os.Getuid(), s.Users[0])
	must.EqOp(t, os.Getegid(), s.Groups[1])
	_, err = ReadStatus(-1)
	must.ErrorIs(t, err, os.ErrNotExist)
}
