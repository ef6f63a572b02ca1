package nomadvar

import (
	"bufio"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func jwtUntil(ends time.Time) string {
	return "h." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, ends.Unix())) + ".s"
}

func pemOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// stranger makes a socket where the task's own is looked for, in a process of its own. said gives what it has printed.
func stranger(t *testing.T, task secrets.Task, attr *syscall.SysProcAttr, env ...string) (said func() []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, listenAt+"="+filepath.Join(task.Dir, socket))...)
	cmd.SysProcAttr = attr
	out, err := cmd.StdoutPipe()
	must.NoError(t, err)
	must.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	must.True(t, lines.Scan())
	must.EqOp(t, "ready", lines.Text())
	return func() (all []string) {
		must.NoError(t, cmd.Process.Kill())
		for lines.Scan() {
			all = append(all, lines.Text())
		}
		_ = cmd.Wait()
		return all
	}
}

// A token goes to the agent only. A task can put what it likes where its socket is looked for; another task's is asked then.
func TestOnlyTheAgentIsAsked(t *testing.T) {
	for name, test := range map[string]struct {
		put  func(t *testing.T, n *node, task secrets.Task) (said func() []string)
		says string
	}{
		"another user's": {func(t *testing.T, _ *node, task secrets.Task) func() []string {
			return stranger(t, task, nil, listenAs+"=4242")
		}, "the socket is not the agent's: user 4242 made it"},
		"a container's root's": {func(t *testing.T, _ *node, task secrets.Task) func() []string {
			return stranger(t, task, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS})
		}, "the socket is not the agent's: a process in another mount namespace made it"},
		"a link to one of root's": {func(t *testing.T, n *node, task secrets.Task) func() []string {
			other := filepath.Join(n.dir, "other.sock")
			l := &secrets.Task{Dir: filepath.Join(n.dir, "elsewhere")}
			must.NoError(t, os.MkdirAll(filepath.Join(l.Dir, "secrets"), 0o700))
			n.serve(*l, newFakeNomad())
			must.NoError(t, os.Rename(filepath.Join(l.Dir, socket), other))
			must.NoError(t, os.Symlink(other, filepath.Join(task.Dir, socket)))
			return func() []string { return nil }
		}, "too many levels of symbolic links"},
		"a file": {func(t *testing.T, _ *node, task secrets.Task) func() []string {
			must.NoError(t, os.WriteFile(filepath.Join(task.Dir, socket), nil, 0o600))
			return func() []string { return nil }
		}, "something else than a socket is there"},
	} {
		t.Run(name, func(t *testing.T) {
			n, nomad := newNode(t), newFakeNomad()
			nomad.put("nomad/jobs/web", map[string]string{"password": "x"})
			task := n.task("alloc", "web")
			said := test.put(t, n, task)
			c := n.client(Config{})
			_, err := c.Read(t.Context(), secrets.Token{}, of(task, "nomad/jobs/web"))
			must.EqOp(t, secrets.Outage, secrets.KindOf(err))
			must.ErrorContains(t, err, test.says)

			n.serve(n.task("alloc-2", "db"), nomad)
			a, err := c.Read(t.Context(), secrets.Token{}, of(task, "nomad/jobs/web"))
			must.NoError(t, err)
			must.EqOp(t, "x", text(t, a, "password"))
			must.Eq(t, []string{"token-of-web team nomad/jobs/web"}, nomad.requests(), must.Sprint("as the task, by another's socket"))
			must.SliceEmpty(t, said(), must.Sprint("the token has been given to a stranger"))
		})
	}
}

// makerReplaced has a container's root make a socket, in a process that gives it to a child and ends, and gives that process's number to
// another of the host's. It reports whether it could: somebody else may have the number first.
func makerReplaced(t *testing.T, path string) bool {
	t.Helper()
	_ = os.Remove(path)
	maker := exec.Command(os.Args[0])
	maker.Env = append(os.Environ(), listenAt+"="+path, handOver+"=1")
	maker.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := maker.Output()
	must.NoError(t, err)
	var child int
	_, err = fmt.Sscan(string(out), &child)
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, syscall.Kill(child, syscall.SIGKILL)) })
	for range 20 { // the kernel gives a new process the number after this one, unless another comes first
		must.NoError(t, os.WriteFile("/proc/sys/kernel/ns_last_pid", fmt.Append(nil, maker.Process.Pid-1), 0o600))
		other := exec.Command("sleep", "1h")
		must.NoError(t, other.Start())
		end := func() { _ = other.Process.Kill(); _ = other.Wait() }
		if other.Process.Pid == maker.Process.Pid {
			t.Cleanup(end)
			return true
		}
		end()
	}
	return false
}

// A container's root makes a socket in a process that ends, and whose number a process of the host's gets: to the eye of /proc it
// is the host's that has made it.
func TestNumberOfAnotherProcess(t *testing.T) {
	n, nomad := newNode(t), newFakeNomad()
	nomad.put("nomad/jobs/web", map[string]string{"password": "x"})
	task := n.task("alloc", "web")
	for tries := 0; !makerReplaced(t, filepath.Join(task.Dir, socket)); tries++ {
		must.Less(t, 100, tries)
	}
	_, err := n.client(Config{}).Read(t.Context(), secrets.Token{}, of(task, "nomad/jobs/web"))
	must.EqOp(t, secrets.Outage, secrets.KindOf(err))
	must.ErrorContains(t, err, "the socket is not the agent's: the process that made it has ended")
}

// Nomad makes no socket where the path is too long: the error says so. Another task's is asked, if there is one.
func TestPathTooLong(t *testing.T) {
	n, nomad := newNode(t), newFakeNomad()
	nomad.put("nomad/jobs/web", map[string]string{"password": "x"})
	task := n.task("alloc", strings.Repeat("w", 100))
	c := n.client(Config{})
	_, err := c.Read(t.Context(), secrets.Token{}, of(task, "nomad/jobs/web"))
	must.EqOp(t, secrets.Invalid, secrets.KindOf(err), must.Sprint("waiting does not help"))
	must.ErrorContains(t, err, fmt.Sprintf("would have a path of %d bytes, and 107 is the limit", len(filepath.Join(task.Dir, socket))))
	must.ErrorContains(t, err, "secrets { nomad { } }")
	n.serve(n.task("alloc", "db"), nomad)
	_, err = c.Read(t.Context(), secrets.Token{}, of(task, "nomad/jobs/web"))
	must.NoError(t, err)
}

// The task by whose socket another waits may end, and the agent may be restarted: the wait goes on.
func TestWaitOutlivesSockets(t *testing.T) {
	n, nomad := newNode(t), newFakeNomad()
	nomad.put("nomad/jobs/web", map[string]string{"password": "x"})
	task, first, second := n.task("alloc", "web"), n.task("a", "first"), n.task("b", "second")
	by := n.serve(first, nomad)
	c := n.client(Config{})
	c.socketComes = time.Hour
	revision := make(chan string, 1)
	go func() {
		r, err := c.Wait(t.Context(), secrets.Token{}, of(task, "nomad/jobs/web"), "11", time.Hour)
		if err != nil {
			r = err.Error()
		}
		revision <- r
	}()
	asked := func() {
		t.Helper()
		for len(nomad.requests()) == 0 {
			must.EqOp(t, 0, len(revision), must.Sprint("the wait has ended"))
			time.Sleep(time.Millisecond)
		}
	}
	asked()
	next := n.serve(second, nomad)
	must.NoError(t, by.Listener.Close()) // first: what is closed is connected to again
	by.CloseClientConnections()
	asked()

	must.NoError(t, next.Listener.Close()) // the agent has gone
	next.CloseClientConnections()
	_, err := c.Read(t.Context(), secrets.Token{}, of(task, "nomad/jobs/web"))
	must.EqOp(t, secrets.Outage, secrets.KindOf(err), must.Sprint("a read does not wait"))
	n.serve(task, nomad)
	asked()
	nomad.put("nomad/jobs/web", map[string]string{"password": "y"})
	must.EqOp(t, "12", <-revision)
}
