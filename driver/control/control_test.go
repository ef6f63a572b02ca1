package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"
	"go.uber.org/goleak"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

// connectTo has the test program connect to a socket, and print what it gets: as another user, it is run so.
const connectTo = "CONTROL_TEST_CONNECT_TO"

func TestMain(m *testing.M) {
	if path := os.Getenv(connectTo); path != "" {
		os.Exit(connect(path))
	}
	goleak.VerifyTestMain(m)
}

func connect(path string) int {
	c, err := net.Dial("unix", path)
	if err != nil {
		fmt.Println("dial:", err)
		return 1
	}
	_, _ = io.WriteString(c, "GET "+statusPath+" HTTP/1.0\r\n\r\n")
	answer, err := io.ReadAll(c)
	fmt.Printf("answer: %q %v\n", answer, err)
	return 0
}

// fakePlugin is a plugin process without a driver.
type fakePlugin struct {
	report Report
	hold   chan struct{} // an operation waits for it, or for its end, if not nil

	mu    sync.Mutex
	asked []string
}

func (p *fakePlugin) Report() Report { return p.report }

func (p *fakePlugin) Operate(ctx context.Context, op lifecycle.Operation, sel lifecycle.Selection) ([]lifecycle.Outcome, error) {
	p.mu.Lock()
	p.asked = append(p.asked, fmt.Sprintf("%s %+v", op, sel))
	p.mu.Unlock()
	if p.hold != nil {
		select {
		case <-p.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return []lifecycle.Outcome{{Alloc: "a", Task: "web", Secret: "db", Result: lifecycle.Replaced}}, nil
}

// stateDir is a state directory with a path that is too long for a socket, which others may go through.
func stateDir(t *testing.T) string {
	top, err := os.MkdirTemp("", "control")
	must.NoError(t, err)
	t.Cleanup(func() { must.NoError(t, os.RemoveAll(top)) })
	dir := filepath.Join(top, strings.Repeat("long", 30))
	must.NoError(t, os.MkdirAll(dir, 0o711))
	must.NoError(t, os.Chmod(top, 0o755))
	return dir
}

// serve has a process of a driver serve, until the test ends or stop is called.
func serve(t *testing.T, dir, driver string, pid int, p Plugin) (stop func()) {
	t.Helper()
	s, err := Listen(dir, driver, pid, hclog.NewNullLogger())
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { must.NoError(t, s.Serve(ctx, p)) })
	stop = sync.OnceFunc(func() {
		cancel()
		serving.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// Two processes of one driver, and one of another, are told apart; each says what it says.
func TestStatusOfAllProcesses(t *testing.T) {
	dir := stateDir(t)
	gone := time.Now().Add(-time.Minute).UTC()
	none, err := Status(t.Context(), dir)
	must.NoError(t, err)
	must.SliceEmpty(t, none)
	serve(t, dir, "docker", 100, &fakePlugin{report: Report{Version: "1", AgentGone: gone}})
	serve(t, dir, "docker", 200, &fakePlugin{report: Report{Version: "2", Tasks: []lifecycle.TaskStatus{{Task: "web"}}}})
	stop := serve(t, dir, "raw_exec-secrets", 50, &fakePlugin{})
	all, err := Status(t.Context(), dir)
	must.NoError(t, err)
	must.Len(t, 3, all)
	must.Eq(t, Report{Driver: "docker", PID: 100, Version: "1", AgentGone: gone}, all[0])
	must.EqOp(t, "web", all[1].Tasks[0].Task)
	must.EqOp(t, "raw_exec-secrets", all[2].Driver)
	must.EqOp(t, 50, all[2].PID)
	stop()
	all, err = Status(t.Context(), dir)
	must.NoError(t, err)
	must.Len(t, 2, all)
	entries, err := os.ReadDir(filepath.Join(dir, dirName))
	must.NoError(t, err)
	must.Len(t, 2, entries) // the third is gone with its process
}

// What is asked for reaches every process, and each's answer comes back; one that ends meanwhile is an answer, too.
func TestOperateReachesAll(t *testing.T) {
	dir := stateDir(t)
	docker, raw := &fakePlugin{}, &fakePlugin{hold: make(chan struct{})}
	serve(t, dir, "docker", 1, docker)
	stop := serve(t, dir, "raw_exec", 2, raw)
	done := make(chan []Done)
	go func() {
		all, err := Operate(context.Background(), dir, lifecycle.Rotate, lifecycle.Selection{Alloc: "a1", Secret: "db"})
		must.NoError(t, err)
		done <- all
	}()
	must.NoError(t, until(func() bool {
		raw.mu.Lock()
		defer raw.mu.Unlock()
		return len(raw.asked) == 1
	}))
	stop()
	all := <-done
	must.Eq(t, []string{"rotate {Alloc:a1 Task: Secret:db}"}, docker.asked)
	must.EqOp(t, lifecycle.Replaced, all[0].Outcomes[0].Result)
	must.EqOp(t, "", all[0].Problem)
	must.EqOp(t, "raw_exec", all[1].Driver)
	must.StrContains(t, all[1].Problem, "has not answered")
}

func until(cond func() bool) error {
	for deadline := time.Now().Add(5 * time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("it did not come")
		}
	}
	return nil
}

// The directory keeps other users away; and to one that reaches the socket all the same nothing is said.
func TestOthersAreRefused(t *testing.T) {
	dir := stateDir(t)
	must.NoError(t, os.Mkdir(filepath.Join(dir, dirName), 0o755)) // as somebody has left it
	serve(t, dir, "docker", 1, &fakePlugin{report: Report{Version: "told"}})
	// Of a path that is short enough for them.
	short := filepath.Join(filepath.Dir(dir), "s")
	must.NoError(t, os.Symlink(dir, short))
	path := filepath.Join(short, dirName, "docker-1.sock")

	asOther := func(uid uint32) string {
		program := filepath.Join(filepath.Dir(dir), "other") // where another user may run it
		content, err := os.ReadFile("/proc/self/exe")
		must.NoError(t, err)
		must.NoError(t, os.WriteFile(program, content, 0o755))
		cmd := exec.Command(program)
		cmd.Dir, cmd.Env = "/", []string{connectTo + "=" + path}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, _ := cmd.CombinedOutput()
		must.NoError(t, os.Remove(program))
		return string(out)
	}
	must.StrContains(t, asOther(0), "told")
	must.StrContains(t, asOther(4242), "permission denied")
	must.NoError(t, os.Chmod(filepath.Join(dir, dirName), 0o777))
	must.NoError(t, os.Chmod(path, 0o777))
	out := asOther(4242)
	must.StrContains(t, out, `answer: ""`)
	must.StrNotContains(t, out, "told")
}

// What processes have left that were killed goes when another starts; what others serve stays.
func TestSweep(t *testing.T) {
	dir := stateDir(t)
	serve(t, dir, "docker", 1, &fakePlugin{})
	left := func(name string) {
		d, err := openDir(dir)
		must.NoError(t, err)
		defer d.close()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: d.path(name), Net: "unix"})
		must.NoError(t, err)
		l.SetUnlinkOnClose(false)
		must.NoError(t, l.Close())
	}
	left("docker-2.sock")
	left(".docker-2000000000.sock") // killed before it listened
	left("docker-3.sock")           // whose pid the new one has
	all, err := Status(t.Context(), dir)
	must.NoError(t, err)
	must.Len(t, 1, all)
	serve(t, dir, "docker", 3, &fakePlugin{})
	entries, err := os.ReadDir(filepath.Join(dir, dirName))
	must.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	must.Eq(t, []string{"docker-1.sock", "docker-3.sock"}, names)
}

// A state directory that others can write to is no place to ask, and none to be asked at.
func TestHostileStateDir(t *testing.T) {
	dir := stateDir(t)
	must.NoError(t, os.Chmod(dir, 0o777))
	_, err := Listen(dir, "docker", 1, hclog.NewNullLogger())
	must.ErrorContains(t, err, "written to by users other than root")
	must.NoError(t, os.Mkdir(filepath.Join(dir, dirName), 0o777))
	must.NoError(t, os.Chmod(filepath.Join(dir, dirName), 0o777))
	_, err = Status(t.Context(), dir)
	must.ErrorContains(t, err, "written to by users other than root")
}

// What is too large, or not understood, is refused: an older plugin does not do more than it was asked for.
func TestBadRequests(t *testing.T) {
	dir := stateDir(t)
	p := &fakePlugin{}
	serve(t, dir, "docker", 1, p)
	d, err := openDir(dir)
	must.NoError(t, err)
	defer d.close()
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return d.dial(socketOf("docker", 1))
		},
	}}
	for path, body := range map[string]string{
		"/v1/rotate":      `{"namespace": "team"}`, // of a newer version's
		"/v1/refresh":     `{"alloc": "` + strings.Repeat("x", maxRequest) + `"}`,
		"/v1/" + "delete": `{}`,
		"/v1/status":      `{}`, // by POST
	} {
		a, err := c.Post("http://plugin"+path, "application/json", strings.NewReader(body))
		must.NoError(t, err, must.Sprint(path))
		_ = a.Body.Close()
		must.GreaterEq(t, 400, a.StatusCode, must.Sprint(path))
	}
	must.SliceEmpty(t, p.asked)
}
