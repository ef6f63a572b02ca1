package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
)

// liveSession has one secret with a live directory, and what a test says that it is now.
type liveSession struct {
	fakeSession
	secret secrets.Secret

	mu      sync.Mutex
	value   string
	looked  time.Time
	reading int
}

func (s *liveSession) Spec() *secrets.Spec { return &secrets.Spec{Secrets: []secrets.Secret{s.secret}} }

func (s *liveSession) Live(string) (secrets.Fields, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return secrets.NewFields(map[string]any{"user": s.value, "of/no/file": "x"}), s.looked
}

func (s *liveSession) set(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value, s.looked = value, time.Now()
}

func (s *liveSession) Reading(string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading++
	return false
}

// livePlugin is a plugin process with one task, in a state directory that it may share with an earlier one's.
func livePlugin(t *testing.T, state, value string) (*task, *liveSession) {
	t.Helper()
	tk := fakeTask(t, &fakeRunner{inner: newFakeInner()})
	tk.d.name, tk.d.wrapped, tk.d.opts.stateDir = "raw_exec", &wrappedRawExec, state
	s := &liveSession{secret: secrets.Secret{Name: "app", Live: &secrets.LiveDir{Path: "live/app", Stale: time.Minute}}}
	s.set(value)
	tk.session = s
	tk.cfg.AllocID = "0d9f6f4e-0000-4000-8000-000000000001"
	t.Cleanup(func() {
		tk.d.cancel()
		tk.d.live.close()
	})
	return tk, s
}

func liveState(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("live directories need root: run as root")
	}
	top, err := filepath.EvalSymlinks(t.TempDir())
	must.NoError(t, err)
	must.NoError(t, os.Chmod(filepath.Dir(top), 0o755))
	state := filepath.Join(top, "state")
	t.Cleanup(func() {
		killFileServers(state, syscall.SIGKILL)
		for _, below := range []string{"live/v1", "shared", "journal"} {
			must.NoError(t, live.Clear(filepath.Join(state, below)))
		}
	})
	return state
}

func killFileServers(state string, sig syscall.Signal) (killed int) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		if args := strings.Split(string(line), "\x00"); len(args) > 2 && args[1] == "serve" && strings.HasPrefix(args[2], state+"/") {
			var pid int
			_, _ = fmt.Sscanf(p, "/proc/%d/", &pid)
			if syscall.Kill(pid, sig) == nil {
				killed++
			}
		}
	}
	return killed
}

func untilNil(t *testing.T, what string, f func() error) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		must.True(t, time.Now().Before(end), must.Sprintf("%s: %v", what, err))
		time.Sleep(10 * time.Millisecond)
	}
}

func reads(path, want string) func() error {
	return func() error {
		got, err := os.ReadFile(path)
		if err == nil && string(got) != want {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	}
}

// A task's live directory through the life of a plugin, its end, the next one, and the file server's; and what of it is left
// after the task.
func TestLiveDirThroughPlugins(t *testing.T) {
	state := liveState(t)
	tk, s := livePlugin(t, state, "one")
	must.NoError(t, tk.prepareLive())
	must.NoError(t, tk.serveLive(t.Context(), owner{}))
	must.NoError(t, tk.files.Publish(tk.withLinks(&secrets.Set{}), 0, 0))
	path := filepath.Join(tk.cfg.TaskDir().SecretsDir, "live", "app", "user")
	must.NoError(t, reads(path, "one")())

	s.set("two")
	fields, _ := s.Live("app")
	tk.Live("app", lifecycle.Look{At: time.Now(), Fields: &fields})
	untilNil(t, "what the session found", reads(path, "two"))
	untilNil(t, "the reading to be told of", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.reading == 0 {
			return errors.New("not yet")
		}
		return nil
	})

	must.Positive(t, killFileServers(state, syscall.SIGKILL))
	untilNil(t, "the directory to heal", reads(path, "two"))

	// The plugin ends. The next one's journal has something older, and the file server keeps what it has until there was a look.
	tk.d.cancel()
	tk.d.live.close()
	must.NoError(t, reads(path, "two")())
	next, s2 := livePlugin(t, state, "older")
	next.files, next.cfg = tk.files, tk.cfg
	must.NoError(t, next.recoverLive(owner{}))
	must.NoError(t, reads(path, "two")())
	s2.set("three")
	next.Live("app", lifecycle.Look{At: time.Now()})
	untilNil(t, "what the look found", reads(path, "three"))
	must.Positive(t, killFileServers(state, syscall.SIGSTOP))
	untilNil(t, "the directory to heal", reads(path, "three"))

	audit, err := os.ReadFile(filepath.Join(state, "audit", "raw_exec.log"))
	must.NoError(t, err)
	must.StrContains(t, string(audit), `"alloc":"0d9f6f4e-0000-4000-8000-000000000001","task":"web","secret":"app","field":"user","uid":0`)

	next.removeLive()
	places, err := os.ReadDir(filepath.Join(state, "shared", "live"))
	must.NoError(t, err)
	must.SliceEmpty(t, places)
	untilNil(t, "the file server to go", func() error {
		if killFileServers(state, 0) > 0 {
			return errors.New("it is there")
		}
		_, err := os.Lstat(filepath.Join(state, "live", "v1.sock"))
		if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("its socket is there: %w", err)
		}
		return nil
	})
}

// What a plugin leaves that is killed at a task's end, the next one removes: no journal names it.
func TestLiveDirsThatWereLeft(t *testing.T) {
	state := liveState(t)
	tk, _ := livePlugin(t, state, "one")
	must.NoError(t, tk.prepareLive())
	must.NoError(t, tk.serveLive(t.Context(), owner{}))
	place := tk.liveDirs()[0].target
	must.NoError(t, reads(filepath.Join(place, "user"), "one")())
	tk.d.cancel()
	tk.d.live.close()

	next, _ := livePlugin(t, state, "")
	next.d.live.sweep()
	_, err := os.Lstat(place)
	must.ErrorIs(t, err, os.ErrNotExist)
}
