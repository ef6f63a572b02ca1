package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// collected has Nomad collect what has ended, as `nomad system gc` does, and waits until the allocation's directory is gone, with
// all that was mounted in it.
func (n *node) collected() {
	n.t.Helper()
	must.NoError(n.t, harness.Until(n.t.Context(), "the allocation's directory to be removed", func() error {
		if err := n.agent.Client().System().GarbageCollect(); err != nil {
			return err
		}
		_, err := os.Lstat(n.alloc.Dir())
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return errors.Join(errors.New("it is there"), err)
	}))
	for _, m := range mountsBelow(n.t, n.agent.DataDir()) {
		must.StrNotContains(n.t, m, n.alloc.ID)
	}
}

// troubleAtEnd are the lines of the agent's log, its plugins' included, that complain of something that could not be undone.
func (n *node) troubleAtEnd() (found []string) {
	n.t.Helper()
	log, err := os.ReadFile(n.agent.LogPath)
	must.NoError(n.t, err)
	trouble := regexp.MustCompile(`\[(WARN|ERROR)\].*(?i:remov|destroy|unmount|clean|busy|not connected|alloc_?dir)`)
	for line := range strings.Lines(string(log)) {
		if trouble.MatchString(line) {
			found = append(found, line)
		}
	}
	return found
}

// A job's stop, the allocation's garbage collection and an agent's restart leave nothing of Nomad's undone: the allocation's
// directory goes, no mount is left, and no file server.
func TestLiveDirAndTheAllocationsEnd(t *testing.T) {
	t.Parallel()
	put(t, "ends", "user", "zero")
	n := newNode(t, harness.AgentOptions{Name: "ends"})
	for _, restart := range []string{"none", "while the task runs", "after its end"} {
		n.run("ends-"+strings.ReplaceAll(restart, " ", "-"), liveOnly("ends", "50"))
		_, err := os.Lstat(n.alloc.Dir())
		must.NoError(t, err)
		if restart == "while the task runs" {
			must.NoError(t, n.agent.Restart(t.Context()))
			put(t, "ends", "user", restart)
			n.seen(restart, 20*time.Second)
		}
		must.NoError(t, n.job.Stop(t.Context()))
		n.nothingLeft(15 * time.Second)
		if restart == "after its end" {
			must.NoError(t, n.agent.Restart(t.Context()))
		}
		n.collected()
		n.nothingLeft(15 * time.Second)
	}
	must.SliceEmpty(t, n.troubleAtEnd(), must.Sprint(n.troubleAtEnd()))
}

// shell is an operator's, whose working directory and an open file are in a live directory.
type shell struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *os.File
}

func (n *node) shellIn(dir string) *shell {
	n.t.Helper()
	out, err := os.CreateTemp(n.t.TempDir(), "out")
	must.NoError(n.t, err)
	cmd := exec.Command("sh", "-c", `cd "$0" && exec 3<user && echo held && read line; cat user; cat <&3; ls; echo ended`, dir)
	cmd.Stdout, cmd.Stderr = out, out
	in, err := cmd.StdinPipe()
	must.NoError(n.t, err)
	must.NoError(n.t, cmd.Start())
	s := &shell{cmd, in, out}
	n.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	s.until(n.t, "held\n")
	return s
}

func (s *shell) until(t *testing.T, text string) {
	t.Helper()
	must.NoError(t, harness.Until(t.Context(), "the operator's shell", func() error {
		b, err := os.ReadFile(s.out.Name())
		if err == nil && !strings.Contains(string(b), text) {
			err = fmt.Errorf("it has printed %q", b)
		}
		return err
	}))
}

// execIn is `nomad alloc exec` of a shell that goes to a task's live directory and stays. It returns when that is there.
func (n *node) execIn(task string) {
	n.t.Helper()
	dir, held := "/run/app", "/alloc/held-"+task
	if task == "raw_exec" {
		dir, held = n.dir(task), n.alloc.Dir("alloc", "held-"+task)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	alloc := n.alloc
	go func() {
		defer close(ended)
		_, _, _ = alloc.ExecAsIs(ctx, task, "sh", "-c", fmt.Sprintf("cd %s && exec 3<user && : >%s && exec sleep 1000", dir, held))
	}()
	n.t.Cleanup(func() { cancel(); <-ended })
	must.NoError(n.t, harness.Until(n.t.Context(), task+": a shell in the live directory", func() error {
		_, err := os.Lstat(alloc.Dir("alloc", "held-"+task))
		return err
	}))
}

// Operators' shells in live directories, on the host and by `nomad alloc exec`, keep no task from its end, no mount, no file server
// and no allocation's directory, and neither a task that comes next. That holds after the file server has died, too.
func TestAnOperatorsShellInALiveDir(t *testing.T) {
	t.Parallel()
	put(t, "shell", "user", "zero")
	n := newNode(t, harness.AgentOptions{Name: "shell"})
	for i, dies := range []bool{false, true} {
		n.run(fmt.Sprint("shell-", i), liveOnly("shell", "50"))
		held := n.shellIn(n.dir("raw_exec"))
		places, err := filepath.Glob(filepath.Join(n.agent.StateDir, "shared", "live", "*"))
		must.NoError(t, err)
		must.Len(t, 2, places)
		for _, task := range drivers {
			n.execIn(task)
		}
		if dies {
			sendTo(t, n.servers(), syscall.SIGKILL)
			v := fmt.Sprint("healed ", i)
			put(t, "shell", "user", v)
			n.seen(v, 10*time.Second)
		}
		must.NoError(t, n.job.Stop(t.Context()))
		for _, place := range places {
			must.NoError(t, harness.Until(t.Context(), "the mount to go", func() error {
				if _, err := os.Lstat(place); !errors.Is(err, fs.ErrNotExist) {
					return errors.Join(fmt.Errorf("%s is there", place), err)
				}
				return nil
			}))
		}

		// The next task, with the shell still there.
		before := n.alloc
		n.run(fmt.Sprint("next-", i), liveOnly("shell", "50"))
		v := fmt.Sprint("next ", i)
		put(t, "shell", "user", v)
		n.seen(v, 10*time.Second)
		must.NoError(t, n.job.Stop(t.Context()))
		n.nothingLeft(15 * time.Second)
		n.collected()
		n.alloc = before
		n.collected()

		// It is told that nothing is there, at once.
		_, err = io.WriteString(held.in, "\n")
		must.NoError(t, err)
		held.until(t, "ended\n")
		n.nothingLeft(15 * time.Second)
	}
	must.SliceEmpty(t, n.troubleAtEnd(), must.Sprint(n.troubleAtEnd()))
}
