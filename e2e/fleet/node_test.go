package fleet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

const (
	kvMount   = "kv/"
	lendsPath = "lends/creds/app"
	// A task has so many secrets of each sort, and so many tasks of a node are of one job: they share its KV paths.
	staticEach = 3
	leasesEach = 2
	tasksOfJob = 4
	// nomadRestarts is after how long Nomad starts a task again whose start has failed recoverably.
	nomadRestarts = 15 * time.Second
)

// shape is how large a fleet is.
type shape struct {
	nodes, tasks int
	rate         float64       // request_rate
	poll         time.Duration // poll_interval
	check        time.Duration // lease_check_interval
	startTimeout time.Duration

	// At a real Vault: how long a lease lives, how long the fleet runs undisturbed, and how long Vault is away.
	leaseTTL, runs, away time.Duration
}

// toThousand is by what its figures are multiplied to be those of a thousand nodes with forty tasks each.
func (s shape) toThousand() float64 { return 40_000 / float64(s.nodes*s.tasks) }

func (s shape) leases() int { return s.nodes * s.tasks * leasesEach }

// fleet is the plugins of some nodes, one each.
type fleet struct {
	t        testing.TB
	shape    shape
	taskDir  string
	stateDir string
	nodes    []*node

	restarts atomic.Int64 // of tasks in place
	failed   atomic.Int64 // starts
}

// node is one plugin process, and the tasks that it sees. It is their Host.
type node struct {
	f      *fleet
	name   string
	keeper *lifecycle.Keeper
}

// newFleet makes the nodes' plugins, each with a server of its own connections.
func newFleet(t testing.TB, sh shape, connect func() server, jwt string) *fleet {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, as the plugin does")
	}
	f := &fleet{t: t, shape: sh, taskDir: t.TempDir(), stateDir: t.TempDir()}
	private := filepath.Join(f.taskDir, "private", "vault.jwt")
	require.NoError(t, os.MkdirAll(filepath.Dir(private), 0o700))
	require.NoError(t, os.WriteFile(private, []byte(jwt), 0o600))
	long := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC) // before a bubble's clock: what is being written is not read
	require.NoError(t, os.Chtimes(private, long, long))
	for i := range sh.nodes {
		n := &node{f: f, name: fmt.Sprintf("node-%d", i)}
		k, err := lifecycle.New(lifecycle.Config{
			Providers: map[string]lifecycle.Provider{"vault": connect()}, StateDir: filepath.Join(f.stateDir, n.name, "docker"),
			JWTMount: "jwt", JWTRole: "app", JWTFile: "private/vault.jwt",
			PollInterval: sh.poll, LeaseCheckInterval: sh.check, StartTimeout: sh.startTimeout, RequestRate: sh.rate,
		})
		require.NoError(t, err)
		n.keeper = k
		f.nodes = append(f.nodes, n)
	}
	return f
}

// close ends the plugins, and none of the tasks' leases.
func (f *fleet) close() {
	var all sync.WaitGroup
	for _, n := range f.nodes {
		all.Go(n.keeper.Close)
	}
	all.Wait()
}

// start starts all tasks of all nodes at once, and returns when all are up; as Nomad does, it starts again what fails.
func (f *fleet) start(ctx context.Context) {
	var all sync.WaitGroup
	for _, n := range f.nodes {
		for i := range f.shape.tasks {
			all.Go(func() { n.start(ctx, i) })
		}
	}
	all.Wait()
}

func (n *node) start(ctx context.Context, i int) {
	job := fmt.Sprint("job-", i/tasksOfJob)
	c := secrets.TaskConfig{Secrets: map[string]*secrets.SecretConfig{}}
	add := func(name, path string) {
		prefix := name + "_"
		c.Secrets[name] = &secrets.SecretConfig{Path: path, EnvPrefix: &prefix, Splay: "0s", Stagger: "0s"}
	}
	for k := range staticEach {
		add(fmt.Sprint("STATIC_", k), fmt.Sprint(kvMount, job, "/", k))
	}
	for k := range leasesEach {
		add(fmt.Sprint("LEASE_", k), lendsPath)
	}
	t := lifecycle.Task{
		Driver: "docker", AllocID: fmt.Sprint(n.name, "-", i), Name: "web", ID: fmt.Sprint(i), Dir: n.f.taskDir,
		Namespace: "default", JobID: job, AllocIndex: 0,
	}
	for ctx.Err() == nil {
		spec, err := secrets.Compile(c)
		if err != nil {
			n.f.t.Error(err)
			return
		}
		s, err := n.keeper.Open(ctx, lifecycle.Start{Task: t, Spec: spec, Config: c, Env: map[string]string{}}, n)
		if err == nil {
			s.Watch()
			return
		}
		if secrets.KindOf(err) != secrets.Outage {
			n.f.t.Error(err)
			return
		}
		n.f.failed.Add(1)
		again := time.NewTimer(nomadRestarts)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
		}
	}
}

// late is how many secrets are not ready.
func (f *fleet) late() (n int) {
	now := time.Now()
	for _, node := range f.nodes {
		g, err := node.keeper.Gauges()
		require.NoError(f.t, err)
		for _, task := range g.Tasks {
			for _, s := range task.Secrets {
				if !s.ReadyAt(now) {
					n++
				}
			}
		}
	}
	return n
}

// awaitHealed waits, for a time at the most, until every secret is ready, and says how long that took.
func (f *fleet) awaitHealed(most time.Duration) time.Duration {
	f.t.Helper()
	for began := time.Now(); ; time.Sleep(time.Second) { // between two looks at the condition
		took := time.Since(began)
		if f.late() == 0 {
			return took
		}
		require.Less(f.t, took, most, "%d secrets are not ready", f.late())
	}
}

func (n *node) Publish(context.Context, *secrets.Set) error        { return nil }
func (n *node) Fits(*secrets.Set) error                            { return nil }
func (n *node) EnvRoom() int                                       { return 1 << 20 }
func (n *node) Signal(context.Context, string) error               { return nil }
func (n *node) Live(string, lifecycle.Look)                        {}
func (n *node) NomadToken() secrets.Value                          { return secrets.Value{} }
func (n *node) Event(string)                                       {}
func (n *node) Restart(_, _ context.Context, _ *secrets.Set) error { n.f.restarts.Add(1); return nil }
func (n *node) Script(context.Context, *secrets.Set, secrets.Script) (int, error) {
	return 0, nil
}
