package lifecycle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// world is a keeper with all around it, in a synctest bubble: time is the bubble's.
type world struct {
	t       *testing.T
	dir     string // the state directory
	taskDir string
	vault   *fakeVault
	host    *fakeHost
	cfg     Config
	keeper  *Keeper
}

// inWorld runs a test in a bubble. A task in it has an identity; poke it with the world's fields.
//
// Within test use w.t, and not the t around it, least of all its Context: that is cancelled outside the bubble, and if
// it was waited for inside, the whole test binary ends ("close of synctest channel from outside bubble").
func inWorld(t *testing.T, test func(w *world)) {
	t.Helper()
	inWorldAt(t, newStateDir(t), test)
}

// inWorldAt is inWorld with a state directory.
func inWorldAt(t *testing.T, dir string, test func(w *world)) {
	t.Helper()
	taskDir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: dir, taskDir: taskDir, vault: newFakeVault(), host: &fakeHost{}}
		w.cfg = Config{
			Providers: map[string]Provider{"vault": w.vault}, StateDir: w.dir,
			JWTMount: "jwt-nomad", JWTRole: "nomad-workloads", JWTFile: "private/vault.jwt",
			PollInterval: 10 * time.Second, LeaseCheckInterval: time.Minute, StartTimeout: 2 * time.Minute, RequestRate: 1000,
		}
		w.write("private/vault.jwt", "a.b.c")
		w.start()
		defer func() {
			w.keeper.Close()
			require.NotContains(w.t, w.vault.tenants, limit.Tenant{}, "a request does not say whose it is: a 429 would be everybody's (C11)")
		}()
		test(w)
	})
}

// start makes a keeper, as a plugin's start does.
func (w *world) start() {
	k, err := New(w.cfg)
	require.NoError(w.t, err)
	k.files = testFiles
	w.keeper = k
}

// testFiles are in the place of the real ones, which need root and have tests of their own.
var testFiles = privateFiles{
	harden: func(string) error { return nil },
	read: func(dir, rel string, _ ...int) (secrets.Value, error) {
		b, err := os.ReadFile(filepath.Join(dir, rel))
		if errors.Is(err, fs.ErrNotExist) {
			err = secrets.Errorf(secrets.NotFound, "%w", err)
		}
		return secrets.NewValue(b), err
	},
	find: func(dir string, _ ...int) []taskdir.Identity { return taskdir.Identities(dir, os.Getuid()) },
}

func (w *world) write(rel, content string) {
	path := filepath.Join(w.taskDir, rel)
	require.NoError(w.t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(w.t, os.WriteFile(path, []byte(content), 0o600))
}

func (w *world) remove(rel string) { require.NoError(w.t, os.Remove(filepath.Join(w.taskDir, rel))) }

func (w *world) task() Task {
	return Task{Driver: "docker", AllocID: "alloc-1", Name: "web", ID: "alloc-1/web/1", Dir: w.taskDir}
}

// spec is a start with these secrets, one a name.
func (w *world) startOf(all map[string]secrets.SecretConfig) Start {
	w.t.Helper()
	c := secrets.TaskConfig{Secrets: map[string]*secrets.SecretConfig{}}
	for name, sc := range all {
		c.Secrets[name] = &sc
	}
	spec, err := w.keeper.providers.compile(c)
	require.NoError(w.t, err)
	return Start{Task: w.task(), Spec: spec, Config: c, Env: map[string]string{}}
}

// open opens a session that has to come up, and watches.
func (w *world) open(all map[string]secrets.SecretConfig) *Session {
	w.t.Helper()
	s, err := w.keeper.Open(w.t.Context(), w.startOf(all), w.host)
	require.NoError(w.t, err)
	s.Watch()
	synctest.Wait()
	return s
}

// sleep lets time pass, and all come to rest.
func (w *world) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// inLoop looks at what is a session's loop's alone.
func inLoop(s *Session, look func()) {
	done := make(chan struct{})
	s.results <- func() {
		defer close(done)
		look()
	}
	<-done
}

// db is a secret of a database, with its user in the environment and a file.
func db(change string) secrets.SecretConfig {
	c := secrets.SecretConfig{
		Path: "database/creds/app", Env: []map[string]string{{"DB_USER": "username"}}, AllFiles: true, ChangeMode: change,
	}
	return changing(c)
}

// app is a static secret.
func app(change string) secrets.SecretConfig {
	return changing(secrets.SecretConfig{Path: "secret/app-1", AllFiles: true, ChangeMode: change})
}

func changing(c secrets.SecretConfig) secrets.SecretConfig {
	switch c.ChangeMode {
	case "signal":
		c.ChangeSignal = "SIGHUP"
	case "script":
		c.ChangeScript = &secrets.ScriptConfig{Command: "/reload"}
	}
	return c
}

type many = map[string]secrets.SecretConfig

// fieldsOf is a secret with one field.
func fieldsOf(value string) secrets.Fields {
	return secrets.NewFields(map[string]any{"value": value})
}

func newStateDir(t testing.TB) string { return filepath.Join(t.TempDir(), "state", "docker") }

var (
	errAway    = &secrets.Error{Kind: secrets.Outage, OfServer: true, Err: errors.New("connection refused")}
	errLimited = &secrets.Error{Kind: secrets.Outage, Limited: true, Err: errors.New("too many requests")}
	errDenied  = secrets.Errorf(secrets.Refused, "permission denied")
)
