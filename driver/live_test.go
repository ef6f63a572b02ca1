package driver

import (
	"context"
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
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/running"
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

// servedPlugin is such a plugin whose task was started.
func servedPlugin(t *testing.T, state, value string) (*task, *liveSession) {
	t.Helper()
	tk, s := livePlugin(t, state, value)
	must.NoError(t, tk.prepareLive())
	must.NoError(t, tk.serveLive(t.Context(), owner{}))
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
		running.Signal(state, syscall.SIGKILL)
		for _, below := range []string{"live/v1", "shared", "journal"} {
			must.NoError(t, live.Clear(filepath.Join(state, below)))
		}
	})
	return state
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
	tk, s := servedPlugin(t, state, "one")
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

	must.Positive(t, running.Signal(state, syscall.SIGKILL))
	untilNil(t, "the directory to heal", reads(path, "two"))

	// The plugin ends. The next one's journal has something older, and the file server keeps what it has until there was a look.
	tk.d.cancel()
	tk.d.live.close()
	must.NoError(t, reads(path, "two")())
	next, s2 := livePlugin(t, state, "older")
	next.files, next.cfg = tk.files, tk.cfg
	must.NoError(t, next.openLive())
	next.recoverLive(owner{})
	must.NoError(t, reads(path, "two")())
	s2.set("three")
	next.Live("app", lifecycle.Look{At: time.Now()})
	untilNil(t, "what the look found", reads(path, "three"))
	must.Positive(t, running.Signal(state, syscall.SIGSTOP))
	untilNil(t, "the directory to heal", reads(path, "three"))

	audit, err := os.ReadFile(filepath.Join(state, "audit", "raw_exec.log"))
	must.NoError(t, err)
	must.StrContains(t, string(audit), `"alloc":"0d9f6f4e-0000-4000-8000-000000000001","task":"web","secret":"app","field":"user","uid":0`)

	next.removeLive()
	places, err := os.ReadDir(filepath.Join(state, "shared", "live"))
	must.NoError(t, err)
	must.SliceEmpty(t, places)
	untilNil(t, "the file server to go", func() error {
		if running.Signal(state, 0) > 0 {
			return errors.New("it is there")
		}
		_, err := os.Lstat(filepath.Join(state, "live", "v1.sock"))
		if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("its socket is there: %w", err)
		}
		return nil
	})
}

// A live directory that cannot be served when its task is recovered is as soon as there can be a file server. Until then the task gets
// no other process: it would have none of its secrets.
func TestLiveDirIsServedLater(t *testing.T) {
	state := liveState(t)
	tk, _ := servedPlugin(t, state, "one")
	path := filepath.Join(tk.liveDirs()[0].target, "user")
	tk.d.cancel()
	tk.d.live.close()
	must.Positive(t, running.Signal(state, syscall.SIGKILL))
	mount := filepath.Join(state, "live", "v1")
	must.NoError(t, live.Clear(mount))
	must.NoError(t, os.Remove(mount))
	must.NoError(t, os.WriteFile(mount, nil, 0o600)) // no file server can be started

	next, s := livePlugin(t, state, "one")
	must.NoError(t, next.openLive())
	next.recoverLive(owner{})
	must.Error(t, reads(path, "one")())
	_, err := next.liveMounts(t.Context())
	must.ErrorIs(t, err, errNoFileServer)
	must.ErrorIs(t, next.ensureLive(t.Context()), errNoFileServer)
	s.set("two")
	next.Live("app", lifecycle.Look{At: time.Now()})
	must.Len(t, 1, eventsOf(next))
	must.StrContains(t, eventsOf(next)[0], `Secrets: secret "app": its live_dir is out of date; trying again: `)

	must.NoError(t, os.Remove(mount))
	untilNil(t, "the directory to be served", reads(path, "two"))
	must.NoError(t, next.ensureLive(t.Context()))
	untilNil(t, "the event", func() error {
		if got := eventsOf(next); len(got) != 2 || got[1] != `Secrets: secret "app": its live_dir is current again` {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
}

// S1: a restart in place starts no program whose live directory is not served.
func TestRestartWithoutItsLiveDir(t *testing.T) {
	state := liveState(t)
	tk, _ := livePlugin(t, state, "one")
	must.NoError(t, tk.openLive()) // and no place is made for it
	tk.recoverLive(owner{})
	exits := tk.wait(t.Context())
	must.ErrorIs(t, await(t, restart(tk)), errNoFileServer)
	must.ErrorIs(t, await(t, exits).Err, errNoFileServer)
}

// A directory that could not be placed again, after its file server was replaced, is placed as soon as it can be.
func TestLiveDirIsPlacedLater(t *testing.T) {
	state := liveState(t)
	tk, _ := servedPlugin(t, state, "one")
	place := tk.liveDirs()[0].target
	must.NoError(t, live.Clear(place))
	must.NoError(t, os.Remove(place))
	must.Positive(t, running.Signal(state, syscall.SIGKILL))
	untilNil(t, "the event", func() error {
		if len(eventsOf(tk)) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	must.NoError(t, os.Mkdir(place, 0o700))
	untilNil(t, "the directory to be back", reads(filepath.Join(place, "user"), "one"))
}

// What a session has found out while its directory was not placed is what that has afterwards, and not what an earlier plugin gave it.
func TestLiveDirThatIsPlacedLaterIsCurrent(t *testing.T) {
	state := liveState(t)
	tk, _ := servedPlugin(t, state, "one")
	place := tk.liveDirs()[0].target
	tk.d.cancel()
	tk.d.live.close()
	must.NoError(t, live.Clear(place))
	must.NoError(t, os.Remove(place))

	next, s := livePlugin(t, state, "one")
	must.NoError(t, next.openLive())
	next.recoverLive(owner{})
	must.Len(t, 1, eventsOf(next))
	s.set("two")
	next.Live("app", lifecycle.Look{At: time.Now()})
	dir := next.liveDirs()[0]
	untilNil(t, "the look to be taken", func() error {
		dir.mu.Lock()
		defer dir.mu.Unlock()
		if dir.news != (news{}) {
			return errors.New("it is not yet")
		}
		return nil
	})
	must.NoError(t, os.Mkdir(place, 0o700))
	untilNil(t, "the directory to be back", reads(filepath.Join(place, "user"), "two"))
}

// A change for which the file server has no room is told, and tried again with each look.
func TestLiveDirHasNoRoom(t *testing.T) {
	state := liveState(t)
	tk, s := servedPlugin(t, state, "one")
	path := filepath.Join(tk.liveDirs()[0].target, "user")

	neighbour := live.Open(live.Config{Feeder: "neighbour", Dir: filepath.Join(state, "live"), Log: testLog(t)})
	t.Cleanup(neighbour.Close)
	_, err := neighbour.Declare(t.Context(), live.Directory{Name: "n", Stale: time.Hour})
	must.NoError(t, err)
	mib := strings.Repeat("m", 1<<20)
	var most []live.Field
	for i := range 63 {
		most = append(most, live.Field{Path: fmt.Sprint(i), Value: secrets.TextValue(mib)})
	}
	must.NoError(t, neighbour.Set(t.Context(), "n", most, time.Now()))

	s.set(mib)
	fields, _ := s.Live("app")
	tk.Live("app", lifecycle.Look{At: time.Now(), Fields: &fields})
	look := func() { tk.Live("app", lifecycle.Look{At: time.Now()}) }
	for range 3 {
		untilNil(t, "the event", func() error {
			look()
			if got := eventsOf(tk); len(got) == 0 || !strings.Contains(got[0], "the bound is 67108864") {
				return fmt.Errorf("%q", got)
			}
			return nil
		})
	}
	must.Len(t, 1, eventsOf(tk))
	must.NoError(t, reads(path, "one")())

	must.NoError(t, neighbour.Withdraw(t.Context(), "n"))
	untilNil(t, "the change", func() error {
		look()
		return reads(path, mib)()
	})
	untilNil(t, "the second event", func() error {
		if got := eventsOf(tk); len(got) != 2 {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
}

// eventsOf are the events of a plugin that nobody listens to.
func eventsOf(tk *task) (texts []string) {
	tk.d.events.mu.Lock()
	defer tk.d.events.mu.Unlock()
	for _, ev := range tk.d.events.queued {
		if strings.HasPrefix(ev.Message, `Secrets: secret "app": its`) { // and none of a field that cannot be a file
			texts = append(texts, ev.Message)
		}
	}
	return texts
}

// What a plugin leaves that is killed at a task's end, the next one removes: no journal names it.
func TestLiveDirsThatWereLeft(t *testing.T) {
	state := liveState(t)
	tk, _ := servedPlugin(t, state, "one")
	place := tk.liveDirs()[0].target
	must.NoError(t, reads(filepath.Join(place, "user"), "one")())
	tk.d.cancel()
	tk.d.live.close()

	// It has not ended for a driver that has a journal of it, which may be another's.
	next, _ := livePlugin(t, state, "")
	d, err := next.d.state()
	must.NoError(t, err)
	j, err := journal.Create(d.Journal("docker"), journal.Entry{Task: journal.Task{AllocID: tk.cfg.AllocID, Name: tk.cfg.Name}})
	must.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var sweeps sync.WaitGroup
	defer sweeps.Wait()
	defer cancel()
	again := make(chan time.Time)
	sweeps.Go(func() { next.d.live.sweep(ctx, again) })
	sweep := func() { // and the one before has ended
		select {
		case again <- time.Now():
		case <-time.After(10 * time.Second):
			t.Fatal("it does not sweep again")
		}
	}
	sweep()
	must.NoError(t, reads(filepath.Join(place, "user"), "one")())
	must.NoError(t, j.Remove())
	sweep()
	untilNil(t, "the place to be removed", func() error {
		if _, err := os.Lstat(place); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
}

// What a start left that the plugin's end cut short goes with the recovery that fails for it.
func TestLiveDirsOfACutStart(t *testing.T) {
	state := liveState(t)
	tk, _ := servedPlugin(t, state, "one")
	place := tk.liveDirs()[0].target
	tk.d.cancel()
	tk.d.live.close()

	next, s := livePlugin(t, state, "one")
	written, err := record{}.encode(next.cfg, nil)
	must.NoError(t, err)
	must.NoError(t, s.SetDriver(written))
	must.ErrorContains(t, next.resume(), "while the task was being started")
	next.removeLive()
	_, err = os.Lstat(place)
	must.ErrorIs(t, err, os.ErrNotExist)
	untilNil(t, "the file server to go", func() error {
		if running.Signal(state, 0) > 0 {
			return errors.New("it is there")
		}
		return nil
	})
}
