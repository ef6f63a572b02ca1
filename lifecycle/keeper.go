package lifecycle

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/limit"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/poll"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/revoke"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/taskdir"
)

// Config is what a Keeper needs to know of the operator's options (docs/agent.md, "Plugin options").
type Config struct {
	// Providers are where secrets are read from, by the name that a job gives.
	Providers map[string]Provider
	// StateDir is this driver's own journal directory: <state_dir>/journal/<driver>.
	StateDir string

	// JWTMount, JWTRole and JWTFile (relative to the task directory) are how a task's identity logs in.
	JWTMount, JWTRole, JWTFile string
	// TokenFile is the node's token, the last resort, for paths matching TokenFilePaths only.
	TokenFile      string
	TokenFilePaths []string

	Namespace string
	// The times and the rate are to be set: the operator's defaults are the driver's.
	PollInterval       time.Duration
	LeaseCheckInterval time.Duration
	StartTimeout       time.Duration
	RequestRate        float64 // background requests a second

	Meter Meter // counts what is done; nil: nothing does
	Log   hclog.Logger
}

var (
	// ErrEnded is a Host's answer when the task ended, or was stopped, before it could be restarted.
	ErrEnded = errors.New("the task has ended")
	// ErrNoJournal means that nothing is written about a task: it has no secrets of ours.
	ErrNoJournal = journal.ErrNone
	// ErrJournalUnreadable means that something is written about a task and makes no sense: it is
	// damaged, or a newer plugin wrote it. The task is to be recovered unwatched (docs/failures.md, "When things fail").
	ErrJournalUnreadable = journal.ErrUnreadable
	// ErrNothingGranted is of a task that declares no secret and only falls under the operator's from_policies, and
	// whose policies cannot be asked for: that is no reason not to start it.
	ErrNothingGranted = errors.New("what the task's policies grant cannot be fetched")
	// ErrClosed is the answer of a Keeper after Close.
	ErrClosed = errors.New("the keeper is closed")
)

// Keeper keeps the secrets of all tasks of one plugin process: it owns the sessions, the shared
// polls, the request rate and the pending revocations. Safe for concurrent use.
type Keeper struct {
	cfg       Config
	providers providers
	requests  *requests
	files     privateFiles
	random    func() float64 // in [0, 1); safe for concurrent use

	limit       *limit.Limiter
	polls       *poll.Poller
	revocations *revoke.Queue
	// digestKey makes digests of secrets useless outside this process: they are compared, not kept.
	digestKey []byte
	room      *room
	memory    *memory
	reading   sync.Mutex // of a task's values from its journal: one task after the other

	answering answering // which providers' servers answer; has a lock of its own

	stopSweep context.CancelFunc
	sweeping  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	closed   bool
	sessions map[journal.TaskKey]*Session
}

// New starts a Keeper, and runs the revocations that an earlier process left pending. Close ends it.
func New(cfg Config) (*Keeper, error) {
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	if cfg.Meter == nil {
		cfg.Meter = noMeter{}
	}
	k := &Keeper{
		cfg:       cfg,
		files:     privateFiles{taskdir.HardenPrivate, taskdir.ReadPrivate, taskdir.Identities},
		random:    mathrand.Float64,
		digestKey: make([]byte, 32),
		room:      newRoom(cfg.StateDir),
		memory:    newMemory(),
		sessions:  map[journal.TaskKey]*Session{},
	}
	k.limit = limit.New(cfg.RequestRate, k.requestsBehind)
	k.requests = newRequests(cfg.Meter, k.limit)
	k.providers = newProviders(cfg.Providers, k.requests)
	_, _ = rand.Read(k.digestKey) // never fails
	revocations, err := revoke.New(revoke.Config{
		StateDir: cfg.StateDir,
		Provider: k.providers.revoker,
		Limit:    k.limit,
		Random:   func() float64 { return k.random() },
		Refused:  k.revocationRefused,
		Answered: k.heard,
		Log:      cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	k.revocations = revocations // which tells of answers already
	k.mu.Unlock()
	k.polls = poll.New(poll.Config{
		Read:     k.pollRead,
		Waiter:   k.providers.waiter,
		Limit:    k.limit,
		Interval: cfg.PollInterval,
		Digest:   k.digest,
		Random:   func() float64 { return k.random() },
		Log:      cfg.Log,
	})
	ctx, cancel := context.WithCancel(context.Background())
	k.stopSweep = cancel
	k.sweeping.Go(func() { k.sweep(ctx) })
	return k, nil
}

// Close stops all that runs and joins it. It ends no task's secrets: a later Keeper on the same
// StateDir recovers them.
func (k *Keeper) Close() {
	k.stopSweep()
	k.sweeping.Wait()
	k.mu.Lock()
	k.closed = true
	var all []*Session
	for _, s := range k.sessions {
		all = append(all, s)
	}
	k.mu.Unlock()
	for _, s := range all {
		s.cancel()
	}
	for _, s := range all {
		s.stop()
	}
	k.polls.Close()
	k.revocations.Close()
}

// Recover makes the session of a task that is running already, from its journal. Nothing is
// fetched and nothing restarted. ErrNoJournal if there is none, ErrJournalUnreadable if it makes no
// sense.
func (k *Keeper) Recover(t Task, h Host) (*Session, error) {
	j, err := journal.Open(k.cfg.StateDir, t)
	if err != nil {
		return nil, err
	}
	s, err := k.resume(t, j, h)
	if err == nil {
		err = k.add(s)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Abandon ends what a journal says of a task that will not be recovered: its leases are revoked,
// its journal removed. Leftovers of an earlier start of the same task are handled so.
func (k *Keeper) Abandon(t Task) error {
	k.mu.Lock()
	s := k.sessions[t.Key()]
	k.mu.Unlock()
	if s != nil {
		s.End()
		return nil
	}
	return k.revocations.EnqueueTask(t)
}

// add makes s one of those that Close stops.
func (k *Keeper) add(s *Session) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		s.cancel()
		return ErrClosed
	}
	k.sessions[s.task.Key()] = s
	return nil
}

func (k *Keeper) drop(s *Session) {
	k.mu.Lock()
	if k.sessions[s.task.Key()] == s {
		delete(k.sessions, s.task.Key())
	}
	k.mu.Unlock()
	k.room.forget(s) // which may wait for a write
}

// valuesOf reads a task's values. Many tasks are recovered at once, and each takes a few times its values
// for the while.
func (k *Keeper) valuesOf(j *journal.Journal) (map[string]secrets.Fields, error) {
	k.reading.Lock()
	defer k.reading.Unlock()
	return j.Values()
}

// revocationRefused tells the operator of a token or a lease that stays until its TTL. The task has ended as a rule,
// so its events are over: the log has it, too.
func (k *Keeper) revocationRefused(t Task, event string, err error) {
	k.cfg.Log.Warn(event, "alloc_id", t.AllocID, "task", t.Name, "error", err)
	k.mu.Lock()
	s := k.sessions[t.Key()]
	k.mu.Unlock()
	if s != nil {
		s.host.Event(event)
	}
}

// requestsBehind warns that the request rate is too low: credentials are kept alive first, so it
// is polls and lease checks that come late.
func (k *Keeper) requestsBehind(b limit.Backlog) {
	k.cfg.Log.Warn("requests to the secrets server wait for their turn for too long; changes and revoked leases are seen late: raise request_rate, or reduce the secrets of the job with most requests",
		"waited", b.Waited.Round(time.Second).String(), "waiting", b.Waiting, "request_rate", k.cfg.RequestRate,
		"most_by_namespace", b.Busiest.Namespace, "most_by_job", b.Busiest.Job, "most", b.BusiestWaiting)
}

func (k *Keeper) digest(f secrets.Fields) string {
	d := f.Digest(k.digestKey)
	return hex.EncodeToString(d[:])
}

// tokenID is what a token is known by: it tells nobody anything of the token.
func (k *Keeper) tokenID(v secrets.Value) string {
	mac := hmac.New(sha256.New, k.digestKey)
	mac.Write(v.Bytes())
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
