package lifecycle

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// asOlder makes the journal what a version before the records would have written at the same moment.
func (w *world) asOlder() {
	w.editEntry(func(e map[string]any) {
		delete(e, "Rotation")
		leases, _ := e["Leases"].([]any)
		for _, l := range leases {
			delete(l.(map[string]any), "Use")
			delete(l.(map[string]any), "Secret")
		}
	})
}

// editEntry changes what is journalled of the task. No plugin runs.
func (w *world) editEntry(edit func(e map[string]any)) {
	path := filepath.Join(w.dir, w.task().AllocID, w.task().Name, "entry.json")
	b, err := os.ReadFile(path)
	require.NoError(w.t, err)
	var e map[string]any
	require.NoError(w.t, json.Unmarshal(b, &e))
	edit(e)
	b, err = json.Marshal(e)
	require.NoError(w.t, err)
	require.NoError(w.t, os.WriteFile(path, b, 0o600))
}

func (w *world) entry() journal.Entry {
	j, err := journal.Open(w.dir, w.task())
	require.NoError(w.t, err)
	return j.Entry()
}

func uses(e journal.Entry) map[journal.LeaseUse]int {
	n := map[journal.LeaseUse]int{}
	for _, l := range e.Leases {
		n[l.Use]++
	}
	return n
}

// E2: whatever step of a rotation a crash comes in, recovery brings it to its end by the record, fetches nothing twice,
// and leaves one credential; also of what the version before has written.
func TestRecoverOutOfEachStep(t *testing.T) {
	type want struct {
		uses  map[journal.LeaseUse]int // in the journal that the crash leaves
		acts  []string                 // after it
		reads int                      // of credentials, in all
	}
	replaced := map[journal.LeaseUse]int{journal.LeaseUsed: 1, journal.LeaseReplaced: 1}
	for name, test := range map[string]struct {
		mode, hang string
		slow       bool // the fetch takes until the crash
		want       want
	}{
		"fetching":          {slow: true, want: want{map[journal.LeaseUse]int{journal.LeaseUsed: 1}, []string{"publish", "restart"}, 2}},
		"publish, restart":  {hang: "publish", want: want{replaced, []string{"publish", "restart"}, 2}},
		"restart":           {hang: "restart", want: want{replaced, []string{"publish", "restart"}, 2}},
		"publish, signal":   {mode: "signal", hang: "publish", want: want{replaced, []string{"publish", "signal SIGHUP"}, 2}},
		"signal":            {mode: "signal", hang: "signal", want: want{replaced, []string{"publish", "signal SIGHUP"}, 2}},
		"publish, script":   {mode: "script", hang: "publish", want: want{replaced, []string{"publish", "script /reload"}, 2}},
		"script":            {mode: "script", hang: "script", want: want{replaced, []string{"publish", "script /reload"}, 2}},
		"publish, and noop": {mode: "noop", hang: "publish", want: want{replaced, []string{"publish"}, 2}},
	} {
		for _, older := range []bool{false, true} {
			if older {
				name += ", of the version before"
			}
			t.Run(name, func(t *testing.T) {
				inWorld(t, func(w *world) {
					w.vault.roles["database/creds/app"] = fakeRole{ttl: time.Hour, max: time.Hour, fixed: true}
					first := w.open(many{"db": db(test.mode)}).Set()
					require.Equal(t, map[journal.LeaseUse]int{journal.LeaseUsed: 1}, uses(w.entry()))
					w.host.hang = test.hang
					if test.slow {
						w.vault.with(func() { w.vault.delay = time.Hour })
					}
					for !test.slow && !slices.ContainsFunc(w.host.applied(), func(act string) bool { return strings.HasPrefix(act, test.hang) }) {
						w.sleep(time.Second)
					}
					if test.slow {
						w.sleep(45 * time.Minute)
					}
					e := w.entry()
					require.Equal(t, test.want.uses, uses(e))
					require.Equal(t, !test.slow, e.Rotation != nil)
					require.Equal(t, e.Rotation != nil, e.Step == journal.StepApplying)
					w.keeper.Close()
					if older {
						w.asOlder()
					}
					w.start()
					w.host.hang, w.host.acts = "", nil
					w.vault.with(func() { w.vault.delay = 0 })
					w.host.during = func(act string) {
						require.Len(t, w.vault.live("database/creds/app"), 2, "during %s (C2)", act)
					}
					s := w.recover()
					if !test.slow {
						require.NotEqual(t, first, s.Set())
					}
					w.sleep(10 * time.Second)
					require.Equal(t, test.want.acts, w.host.applied())
					require.NotEqual(t, first, s.Set())
					require.Equal(t, test.want.reads, w.vault.called("read database"))
					if test.mode != "noop" { // whose process may use the old one to its end
						w.sleep(oldLeaseGrace)
						require.Len(t, w.vault.live("database/creds/app"), 1)
						require.Equal(t, map[journal.LeaseUse]int{journal.LeaseUsed: 1}, uses(w.entry()))
					}
					require.Nil(t, w.entry().Rotation)
					require.Equal(t, journal.StepWatching, w.entry().Step)
					s.End()
				})
			})
		}
	}
}

// What is being taken from a task when a crash comes is taken from it.
func TestRecoverRemoving(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.fromPolicies("database/creds/app", "secret/data/cert")
		s := w.openAll()
		require.NotEmpty(t, s.Set().Env)
		w.host.hang = "restart"
		g.grant("secret/data/cert")
		w.sleep(5 * time.Minute)
		require.Equal(t, []journal.Change{{
			Name: "app", Apply: s.rotation.batch[0].change, Cause: string(CauseWithdrawn), Dropped: true,
		}}, w.entry().Rotation.Changes)
		require.Equal(t, 1, uses(w.entry())[journal.LeaseReplaced])
		w.crash()
		w.host.hang, w.host.acts = "", nil
		s = w.recover()
		w.sleep(10 * time.Second)
		require.Equal(t, []string{"publish", "restart"}, w.host.applied())
		require.Contains(t, w.host.said(), `secret "app" removed`)
		require.Empty(t, w.vault.live("database/creds/app"))
		require.Nil(t, w.entry().Rotation)
		s.End()
	})
}

// A resumed rotation that cannot be applied stays on record, is tried again, and revokes nothing meanwhile.
func TestResumedRotationFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.vault.roles["database/creds/app"] = fakeRole{ttl: 10 * time.Hour, max: 10 * time.Hour, fixed: true}
		w.host.hang = "publish"
		w.open(many{"db": db("")})
		w.sleep(9 * time.Hour)
		w.host.hang = ""
		for range 2 {
			w.crash()
			var full atomic.Bool
			full.Store(true)
			w.host.publish = func() error {
				if full.Load() {
					return errors.New("no room")
				}
				return nil
			}
			s := w.recover()
			w.sleep(5 * time.Second)
			require.Contains(t, w.host.said(), "no room")
			require.NotNil(t, w.entry().Rotation)
			require.Len(t, w.vault.live("database/creds/app"), 2)
			if w.host.count("publish") < 3 {
				continue
			}
			full.Store(false)
			w.sleep(30 * time.Minute)
			require.Equal(t, 1, w.host.count("restart"))
			require.Nil(t, w.entry().Rotation)
			require.Len(t, w.vault.live("database/creds/app"), 1)
			require.Equal(t, 2, w.vault.called("read database"))
			s.End()
		}
	})
}

// A lease that the task may use to its end is not revoked because the plugin restarts: before, a lease without a time
// looked like one that nobody has.
func TestRecoverKeepsWhatMayBeUsed(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		s := w.open(many{"db": db("noop")})
		tok, _ := s.tokens.inUse()
		a, err := w.vault.Read(s.ctx, tok, s.spec.Secrets[0].Request)
		require.NoError(t, err)
		require.NoError(t, s.journal.AddLease(journal.Lease{ID: a.Lease.ID, TokenID: tok.Accessor, Use: journal.LeaseRetired}))
		w.crash()
		s = w.recover()
		w.sleep(30 * time.Minute)
		require.Len(t, w.vault.live("database/creds/app"), 2)
		s.End()
		w.sleep(5 * time.Second)
		require.Empty(t, w.vault.live("database/creds/app"))
	})
}

// What the version before wrote says by its gaps what is on record now.
func TestRecorded(t *testing.T) {
	config := secrets.TaskConfig{Secrets: map[string]*secrets.SecretConfig{}}
	for name, sc := range (many{"db": db("signal"), "app": app("")}) {
		config.Secrets[name] = &sc
	}
	spec, err := secrets.Compile(config)
	require.NoError(t, err)
	later := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	has := map[string]journal.Secret{"db": {LeaseID: "new"}, "app": {}}
	leases := []journal.Lease{{ID: "new"}, {ID: "old"}, {ID: "retired", RevokeAt: later}}
	type use = journal.LeaseUse
	for name, test := range map[string]struct {
		in      journal.Entry
		uses    []use
		changes []string // with the mode
		old     string   // the secret that the old lease was of
	}{
		"watching": {
			in:   journal.Entry{Step: journal.StepWatching, Secrets: has, Leases: leases},
			uses: []use{journal.LeaseUsed, journal.LeaseFetched, journal.LeaseRetired},
		},
		"applying": {
			in:      journal.Entry{Step: journal.StepApplying, Secrets: has, Leases: leases, Applying: []string{"app", "db"}},
			uses:    []use{journal.LeaseUsed, journal.LeaseReplaced, journal.LeaseRetired},
			changes: []string{"app restart", "db signal"}, old: "app",
		},
		"applying, the strongest second": {
			in:      journal.Entry{Step: journal.StepApplying, Secrets: has, Leases: leases, Applying: []string{"db", "app"}},
			uses:    []use{journal.LeaseUsed, journal.LeaseReplaced, journal.LeaseRetired},
			changes: []string{"db signal", "app restart"}, old: "app",
		},
		"applying what the policies grant no more": {
			in:      journal.Entry{Step: journal.StepApplying, Secrets: has, Leases: leases, Applying: []string{"gone"}},
			uses:    []use{journal.LeaseUsed, journal.LeaseReplaced, journal.LeaseRetired},
			changes: []string{"gone dropped"}, old: "gone",
		},
		"applying nothing that is named": {
			in:   journal.Entry{Step: journal.StepApplying, Secrets: has, Leases: leases},
			uses: []use{journal.LeaseUsed, journal.LeaseRetired, journal.LeaseRetired},
		},
		"on record": {
			in: journal.Entry{
				Step: journal.StepApplying, Secrets: has, Applying: []string{"db"},
				Leases:   []journal.Lease{{ID: "new", Use: journal.LeaseUsed}, {ID: "old", Use: journal.LeaseReplaced, Secret: "db"}},
				Rotation: &journal.Rotation{Changes: []journal.Change{{Name: "db", Apply: secrets.Change{Mode: secrets.RunScript}}}},
			},
			uses: []use{journal.LeaseUsed, journal.LeaseReplaced}, changes: []string{"db script"}, old: "db",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := recorded(test.in, spec)
			var uses []use
			for _, l := range got.Leases {
				uses = append(uses, l.Use)
			}
			require.Equal(t, test.uses, uses)
			require.Equal(t, test.old, got.Leases[1].Secret)
			var changes []string
			if got.Rotation != nil {
				for _, c := range got.Rotation.Changes {
					how := c.Apply.Mode.String()
					if c.Dropped {
						how = "dropped"
					}
					changes = append(changes, c.Name+" "+how)
				}
			}
			require.Equal(t, test.changes, changes)
			require.Empty(t, test.in.Leases[0].Use == journal.LeaseUsed && test.in.Rotation == nil, "the entry itself is not changed")
		})
	}
}
