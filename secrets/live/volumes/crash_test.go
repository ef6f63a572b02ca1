package volumes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	docker "github.com/docker/go-plugins-helpers/volume"
	"github.com/hashicorp/go-hclog"
	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// process is a driver in a process of its own, which is this test binary, to be killed.
type process struct {
	n    *node
	cmd  *exec.Cmd
	http *http.Client
}

const daemonEnv = "VOLUMES_TEST_DAEMON" // the node's directory and the server's address

// serveAsDaemon is the process.
func serveAsDaemon(dir, address string) error {
	server, err := vault.New(vault.Config{Address: address})
	if err != nil {
		return err
	}
	d, err := Open(Config{
		Server: server, Credentials: Credentials{TokenFile: filepath.Join(dir, "token")}, Allow: Allow{"secret/*"},
		StateDir: filepath.Join(dir, "state"), Home: filepath.Join(dir, "live"), Shared: filepath.Join(dir, "shared"),
		Log: hclog.New(&hclog.LoggerOptions{Output: os.Stderr}),
	})
	if err != nil {
		return err
	}
	socket := filepath.Join(dir, "sock")
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	return docker.NewHandler(d).Serve(l)
}

func (n *node) process() *process {
	n.t.Helper()
	n.rootCredentials()
	p := &process{n: n, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", n.path("sock"))
		},
	}}}
	p.start()
	n.t.Cleanup(p.kill)
	return p
}

func (p *process) start() {
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), daemonEnv+"="+p.n.dir, daemonEnv+"_ADDRESS="+p.n.vault.address)
	log, err := os.OpenFile(p.n.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must.NoError(p.n.t, err)
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	must.NoError(p.n.t, p.cmd.Start())
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// ask is what Docker does, which tries again while nobody listens.
func (p *process) ask(method string, req, answer any) {
	p.n.t.Helper()
	b, err := json.Marshal(req)
	must.NoError(p.n.t, err)
	eventually(p.n.t, 10*time.Second, func() error {
		resp, err := p.http.Post("http://docker/VolumeDriver."+method, "application/json", bytes.NewReader(b))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var all struct {
			Err        string
			Mountpoint string
		}
		if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
			return err
		}
		if all.Err != "" {
			return errors.New(all.Err)
		}
		if to, ok := answer.(*string); ok {
			*to = all.Mountpoint
		}
		return nil
	})
}

// readers read a file until they are stopped. failed is called with each error and its time.
func readers(t *testing.T, n int, path string, failed func(error, time.Time)) (reads *atomic.Int64, stop func()) {
	reads = new(atomic.Int64)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(20 * time.Millisecond):
				}
				if _, err := read(path); err != nil {
					failed(err, time.Now())
				}
				reads.Add(1)
			}
		})
	}
	stop = sync.OnceFunc(func() { close(done); wg.Wait() })
	t.Cleanup(stop)
	return reads, stop
}

func random(most time.Duration) { time.Sleep(rand.N(most)) }

func TestADriverThatIsKilledIsNotMissed(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "first")
	n := newNode(t, v)
	p := n.process()
	var at string
	p.ask("Create", docker.CreateRequest{Name: "secret/app"}, nil)
	p.ask("Mount", docker.MountRequest{Name: "secret/app", ID: "x"}, &at)
	user := filepath.Join(at, "user")
	reads, stop := readers(t, 50, user, func(err error, _ time.Time) { t.Error(err) })
	for i := range 20 {
		random(200 * time.Millisecond)
		p.kill()
		random(200 * time.Millisecond)
		p.start()
		if i%5 == 4 { // it goes on to look, and to take orders
			v.put("app", "user", fmt.Sprint(i))
			eventually(t, 5*time.Second, wantFile(user, fmt.Sprint(i)))
			p.ask("Mount", docker.MountRequest{Name: "secret/app/", ID: fmt.Sprint(i)}, &at)
			must.Eq(t, filepath.Dir(user), at)
		}
	}
	stop()
	t.Logf("%d reads", reads.Load())
	for _, id := range []string{"x", "4", "9", "14", "19"} {
		p.ask("Unmount", docker.UnmountRequest{Name: "secret/app", ID: id}, nil)
	}
	p.ask("Remove", docker.RemoveRequest{Name: "secret/app"}, nil)
	n.nothingServed()
}

func TestAFileServerThatIsKilledIsReplaced(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "first")
	n := newNode(t, v)
	d := n.open(nil)
	must.NoError(t, create(d, "secret/app"))
	at := mount(t, d, "secret/app", "x")
	user := filepath.Join(at, "user")
	var last atomic.Int64 // when a read failed last
	reads, stop := readers(t, 50, user, func(_ error, at time.Time) { last.Store(at.UnixNano()) })
	slowest := time.Duration(0)
	for i := range 20 {
		random(200 * time.Millisecond)
		begin := time.Now()
		must.Eq(t, 1, n.killServer([]syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP}[i%2]))
		want := fmt.Sprint(i)
		v.put("app", "user", want)
		eventually(t, 5*time.Second, wantFile(user, want))
		if healed := time.Unix(0, last.Load()).Sub(begin); last.Load() > 0 {
			slowest = max(slowest, healed)
		}
	}
	stop()
	t.Logf("%d reads; after a file server's end the last failed one came within %s", reads.Load(), slowest)
	must.Less(t, 2*time.Second, slowest)
	must.NoError(t, unmount(d, "secret/app", "x"))
	n.nothingServed()
}

func TestNoReadIsSlowWhateverIsAway(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "first")
	n := newNode(t, v)
	p := n.process()
	var at string
	p.ask("Create", docker.CreateRequest{Name: "secret/app"}, nil)
	p.ask("Mount", docker.MountRequest{Name: "secret/app", ID: "x"}, &at)
	user := filepath.Join(at, "user")
	plain := n.path("shared/plain") // on a tmpfs: what the machine itself takes, just then
	must.NoError(t, os.WriteFile(plain, []byte("first"), 0o600))
	measure := func(what string) {
		t.Helper()
		var slowest, slowestPlain, reads, readsPlain atomic.Int64
		var wg sync.WaitGroup
		end := time.Now().Add(2 * time.Second)
		for i := range 60 {
			path, most, count := user, &slowest, &reads
			if i%6 == 5 {
				path, most, count = plain, &slowestPlain, &readsPlain
			}
			wg.Go(func() {
				for next := time.Now(); next.Before(end); next = next.Add(10 * time.Millisecond) {
					time.Sleep(time.Until(next))
					begin := time.Now()
					if _, err := read(path); err != nil {
						t.Error(err)
					}
					took := int64(time.Since(begin))
					for was := most.Load(); took > was && !most.CompareAndSwap(was, took); was = most.Load() {
					}
					count.Add(1)
				}
			})
		}
		wg.Wait()
		live, machine := time.Duration(slowest.Load()), time.Duration(slowestPlain.Load())
		t.Logf("%s: %d reads a second, the slowest took %s; of a plain file %s", what, reads.Load()/2, live, machine)
		must.Less(t, 250*time.Millisecond+2*machine, live) // it waits for a processor twice: the file server's turn, and its own
		<-time.After(2 * time.Second)                      // a pause, after which the first waits for a fresh look
	}
	measure("all is well")
	v.pause()
	measure("the server hangs")
	v.resume()
	must.NoError(t, p.cmd.Process.Signal(syscall.SIGSTOP))
	measure("the driver hangs")
	must.NoError(t, p.cmd.Process.Signal(syscall.SIGCONT))
	p.kill()
	measure("the driver is away")
}

// TestManyReadersMakeOneRequestASecond counts at a proxy in front of the server.
func TestManyReadersMakeOneRequestASecond(t *testing.T) {
	v := startVault(t)
	v.put("app", "user", "first")
	n := newNode(t, v)
	requests := v.counted()
	d := n.open(nil)
	for i := range 5 { // volumes of one secret share one poll
		must.NoError(t, create(d, fmt.Sprint("v", i), "path=secret/app"))
	}
	for i := range 5 {
		at := mount(t, d, fmt.Sprint("v", i), "x")
		readers(t, 20, filepath.Join(at, "user"), func(err error, _ time.Time) { t.Error(err) })
	}
	random(time.Second)
	before := requests.Load()
	<-time.After(5 * time.Second) // the time that is measured
	got := requests.Load() - before
	t.Logf("%d requests in 5 s", got)
	must.Between(t, 3, got, 6)
}
