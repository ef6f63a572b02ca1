package lifecycle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// startFor is a start of a job's task with these secrets.
func (w *world) startFor(job string, index int, all map[string]secrets.SecretConfig) Start {
	w.t.Helper()
	st := w.startOf(all)
	id := fmt.Sprint(job, "-", index)
	st.Task = Task{
		Driver: "docker", AllocID: id, Name: "web", ID: id, Dir: w.taskDir,
		Namespace: "default", JobID: job, AllocIndex: index,
	}
	return st
}

// openFor opens a session that has to come up, and says how long that took.
func (w *world) openFor(job string, index int, all map[string]secrets.SecretConfig) (*Session, *fakeHost, time.Duration) {
	w.t.Helper()
	h, start := &fakeHost{}, time.Now()
	s, err := w.keeper.Open(w.t.Context(), w.startFor(job, index, all), h)
	require.NoError(w.t, err)
	s.Watch()
	return s, h, time.Since(start)
}

// severalOf is so many secrets of one path.
func severalOf(n int, c secrets.SecretConfig) map[string]secrets.SecretConfig {
	all := map[string]secrets.SecretConfig{}
	for i := range n {
		c.Env = []map[string]string{{fmt.Sprintf("V_%d", i): "password"}}
		c.AllFiles = false
		all[fmt.Sprint("s", i)] = c
	}
	return all
}

// tries has allocations of jobs start, again and again, with secrets of a database that hangs, until the
// returned function is called.
func (w *world) tries(jobs, allocs, each int) (stop func()) {
	w.vault.with(func() {
		w.vault.slow = map[string]time.Duration{"read database/creds/dead": time.Hour}
		w.vault.roles["database/creds/dead"] = fakeRole{ttl: time.Hour, max: time.Hour}
	})
	done := make(chan struct{})
	var starts []chan struct{}
	for j := range jobs {
		for i := range allocs {
			ended := make(chan struct{})
			starts = append(starts, ended)
			st := w.startFor(fmt.Sprint("dead-", j), i, severalOf(each, secrets.SecretConfig{Path: "database/creds/dead"}))
			go func() {
				defer close(ended)
				for {
					_, _ = w.keeper.Open(w.t.Context(), st, &fakeHost{})
					select {
					case <-done:
						return
					case <-time.After(15 * time.Second):
					}
				}
			}()
		}
	}
	synctest.Wait()
	return func() {
		close(done)
		w.keeper.Close()
		for _, ended := range starts {
			<-ended
		}
	}
}

// C11, E1: jobs whose database accepts and never answers delay neither another's start nor its renewals, its
// polls, nor its revocations.
func TestDeadDatabaseOfOthers(t *testing.T) {
	for _, tt := range []struct{ jobs, allocs, each int }{{1, 2, 40}, {16, 1, 3}} {
		t.Run(fmt.Sprint(tt.jobs), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.keeper.Close()
				w.cfg.RequestRate = 20
				w.start()
				w.vault.roles["database/creds/app"] = fakeRole{ttl: 30 * time.Second, max: 1000 * time.Hour}
				w.vault.roles["database/creds/own"] = fakeRole{ttl: time.Hour, max: time.Hour}
				w.vault.roles["database/creds/short"] = fakeRole{ttl: time.Hour, max: time.Hour}
				withApp(w, "v0")
				w.vaultBlock() // whose leases are revoked one by one
				own, _, _ := w.openFor("dead-0", 100, severalOf(20, secrets.SecretConfig{Path: "database/creds/own"}))
				defer w.tries(tt.jobs, tt.allocs, tt.each)()
				s, h, took := w.openFor("neighbour", 0, many{"db": db(""), "app": app("signal")})
				require.LessOrEqual(w.t, took, 2*time.Second)
				for i := range 40 {
					_, _, took := w.openFor(fmt.Sprint("kv-", i), 0, many{"app": app("noop")})
					require.LessOrEqual(w.t, took, 2*time.Second, "start %d", i)
					short, _, took := w.openFor("short", 0, severalOf(20, secrets.SecretConfig{Path: "database/creds/short"}))
					require.LessOrEqual(w.t, took, 3*time.Second, "one of 20 secrets, %d", i)
					short.End()
					if i == 25 { // in the midst of the others' starts
						own.End()
					}
					withApp(w, fmt.Sprint("v", i+1))
					w.sleep(5 * time.Second)
					require.Empty(w.t, w.vault.live("database/creds/short"), "E1")
					require.Len(w.t, w.vault.live("database/creds/app"), 1)
					if i == 25 {
						require.Empty(w.t, w.vault.live("database/creds/own"), "E1, of a task of the job whose starts hang")
					}
					w.sleep(8 * time.Second)
				}
				require.NotContains(w.t, h.applied(), "restart")
				require.Greater(w.t, h.count("signal SIGHUP"), 30, "its polls go on (C5)")
				s.End()
				w.sleep(5 * time.Second)
				require.Empty(w.t, w.vault.live("database/creds/app"), "E1")
			})
		})
	}
}

// C11: hundreds of the shortest certificates there may be, at a rate that does not suffice for them. A
// neighbour's lease of 30 s lives, its changes are seen, and the operator is warned once of what runs late, and
// which job asks for most.
func TestManyShortCertificates(t *testing.T) {
	inWorld(t, func(w *world) {
		w.keeper.Close()
		var log bytes.Buffer
		w.cfg.RequestRate = 4 // they need more than 6
		w.cfg.Log = hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Warn})
		w.start()
		w.vault.roles["pki/issue/web"] = fakeRole{issued: time.Minute}
		w.vault.roles["database/creds/app"] = fakeRole{ttl: 30 * time.Second, max: 1000 * time.Hour}
		withApp(w, "v0")
		s, h, _ := w.openFor("neighbour", 0, many{"db": db(""), "app": app("signal")})
		for i := range 3 {
			w.openFor("certificates", i, severalOf(80, secrets.SecretConfig{Path: "pki/issue/web", ChangeMode: "noop"}))
		}
		lease := w.vault.live("database/creds/app")
		seen := 0
		for i := range 20 {
			withApp(w, fmt.Sprint("v", i+1))
			w.sleep(time.Minute)
			require.Equal(w.t, lease, w.vault.live("database/creds/app"))
			if n := h.count("signal SIGHUP"); n > seen {
				seen = n
			} else {
				w.t.Errorf("change %d was not seen within a minute", i)
			}
		}
		require.NotContains(w.t, h.applied(), "restart")
		require.Equal(w.t, 1, strings.Count(log.String(), "wait for their turn"), log.String())
		require.Contains(w.t, log.String(), "most_by_job=certificates")
		require.Contains(w.t, log.String(), "raise request_rate")
		s.End()
	})
}

// C11: only what a task would lose for good is fetched at the rank of renewals; what has changed, or is lost already, comes
// second.
func TestRanksOfReplacements(t *testing.T) {
	for name, test := range map[string]struct {
		role   fakeRole
		change func(w *world)
		want   limit.Priority
	}{
		"a lease near its maximum": {fakeRole{ttl: 20 * time.Minute, max: 20 * time.Minute, fixed: true}, func(*world) {}, limit.Renew},
		"a certificate":            {fakeRole{issued: 20 * time.Minute}, func(*world) {}, limit.Renew},
		"a lease that was revoked": {fakeRole{ttl: 1000 * time.Hour, max: 1000 * time.Hour}, func(w *world) {
			w.vault.with(func() { clear(w.vault.leases) })
		}, limit.Rotate},
		"a static secret that is too large to be kept until it is due": {fakeRole{}, func(w *world) {
			w.vault.with(func() {
				w.vault.static["database/creds/app"] = map[string]any{"username": strings.Repeat("y", smallTask+1)}
			})
		}, limit.Rotate},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.keeper.Close()
				w.cfg.RequestRate = 0.01 // whatever is asked for waits
				w.start()
				w.vault.login = fakeRole{ttl: 1000 * time.Hour, max: 1000 * time.Hour}
				w.vault.roles["database/creds/app"] = test.role
				if test.role == (fakeRole{}) {
					w.vault.static["database/creds/app"] = map[string]any{"username": "x"}
				}
				c := db("noop")
				c.Env = nil
				s := w.open(many{"db": c})
				w.sleep(time.Minute)
				test.change(w)
				var phase phase
				for range 3600 {
					w.sleep(time.Second)
					if inLoop(s, func() { phase = s.phase }); phase == phaseFetching {
						break
					}
				}
				require.Equal(t, phaseFetching, phase)
				for _, p := range []limit.Priority{limit.Renew, limit.Rotate} {
					want := 0
					if p == test.want {
						want = 1
					}
					require.Equal(t, want, w.keeper.limit.Waiting(s.tenant().At("vault"), p), "at rank %d", p)
				}
				s.End()
			})
		})
	}
}

// C11: a certificate is issued again every 30 s at most, also when the server begins to give shorter ones, of
// which an event tells once.
func TestCertificateReissuedRarely(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["pki/issue/web"] = fakeRole{issued: time.Minute}
		s := w.open(many{"tls": changing(secrets.SecretConfig{Path: "pki/issue/web", AllFiles: true, ChangeMode: "noop"})})
		w.vault.with(func() { w.vault.roles["pki/issue/web"] = fakeRole{issued: 5 * time.Second} })
		w.sleep(10 * time.Minute)
		require.Greater(w.t, w.vault.called("read pki"), 12)
		require.LessOrEqual(w.t, w.vault.called("read pki"), 1+10*60/30)
		require.Equal(w.t, 1, strings.Count(w.host.said(), "raise the role's ttl or max_ttl to 1m0s"), w.host.said())
		s.End()
	})
}

// C11: a lifetime under a minute is refused at the start, by name, whether or not the secret is required.
func TestShortLifetimeRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		no := false
		w.vault.roles["pki/issue/web"] = fakeRole{issued: time.Second}
		withApp(w, "one")
		for _, required := range []*bool{nil, &no} {
			start := time.Now()
			_, err := w.keeper.Open(w.t.Context(), w.startOf(many{"app": app(""), "tls": {Path: "pki/issue/web", AllFiles: true, ChangeMode: "noop", Required: required}}), w.host)
			require.ErrorContains(w.t, err, `secret "tls": pki/issue/web: its lifetime is 1s, and 1m0s is the least`)
			require.Equal(w.t, secrets.Invalid, secrets.KindOf(err), "trying again does not help")
			require.Zero(w.t, time.Since(start))
		}
		synctest.Wait()
		require.Zero(w.t, w.vault.liveTokens(), "nothing is left")
		require.Equal(w.t, 2, w.vault.called("read pki"))
	})
}

// C11, E1: what is to be revoked after a restart of the plugin has its task's tenant; so has what an older
// version journalled, which did not write it down, a tenant for each allocation.
func TestRevocationsHaveTenants(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprint(old), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour}
				w.vaultBlock()
				const each = 60
				w.openFor("many", 0, severalOf(each, secrets.SecretConfig{Path: "database/creds/app"}))
				w.openFor("few", 0, many{"db": db("")})
				synctest.Wait()
				w.vault.set(errAway)
				w.keeper.Close()
				if old {
					forgetJobs(w.t, w.dir)
				}
				w.start()
				for _, id := range []string{"many-0", "few-0"} {
					require.NoError(w.t, w.keeper.Abandon(Task{AllocID: id, Name: "web"}))
				}
				w.keeper.Close()

				var order []string
				w.vault.with(func() {
					w.vault.away, w.vault.delay = nil, 900*time.Millisecond
					few := map[string]bool{}
					for id, l := range w.vault.leases {
						few[string(id)] = l.path == "database/creds/app" && strings.HasSuffix(string(id), fmt.Sprint("/", w.vault.count))
					}
					w.vault.sent = func() {
						call := w.vault.calls[len(w.vault.calls)-1]
						if id, ok := strings.CutPrefix(call, "revoke "); ok && few[id] {
							order = append(order, "few")
						} else if ok {
							order = append(order, "many")
						}
					}
				})
				w.start()
				w.sleep(10 * time.Second)
				require.Len(w.t, order, each+1)
				require.Contains(w.t, order[:2*limit.ForegroundAtOnce], "few", "it does not wait for all of the others")
				require.Empty(w.t, w.vault.live("database/creds/app"))
			})
		})
	}
}

// forgetJobs makes the journals what a version wrote that had no tenants.
func forgetJobs(t *testing.T, stateDir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(stateDir, "*", "*", "entry.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		var e map[string]any
		require.NoError(t, json.Unmarshal(b, &e))
		task := e["Task"].(map[string]any)
		require.Contains(t, task, "JobID")
		delete(task, "JobID")
		delete(task, "Namespace")
		b, err = json.Marshal(e)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, b, 0o600))
	}
}

// A task that an older version started has a tenant from its recovery on, in the journal, too.
func TestRecoveredTaskHasTenant(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s, _, _ := w.openFor("web", 0, many{"db": db("")})
		task := s.task
		synctest.Wait()
		w.keeper.Close()
		forgetJobs(w.t, w.dir)
		w.start()
		s, err := w.keeper.Recover(task, w.host)
		require.NoError(w.t, err)
		s.Watch()
		require.Equal(w.t, limit.Tenant{Namespace: "default", Job: "web"}, s.tenant())
		w.sleep(time.Hour) // a renewal is journalled
		require.Equal(w.t, "web", s.journal.Entry().Task.JobID)
		s.End()
	})
}
