package lifecycle

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Config is what a Keeper needs to know of the operator's options (DESIGN 4).
type Config struct {
	Provider secrets.Provider
	// StateDir is this driver's own journal directory: <state_dir>/<driver>.
	StateDir string

	// JWTMount, JWTRole and JWTFile (relative to the task directory) are how a task's identity logs in.
	JWTMount, JWTRole, JWTFile string
	// TokenFile is the node's token, the last resort, for paths matching TokenFilePaths only.
	TokenFile      string
	TokenFilePaths []string

	Namespace          string
	PollInterval       time.Duration
	LeaseCheckInterval time.Duration
	StartTimeout       time.Duration
	RequestRate        float64 // background requests a second

	Log hclog.Logger
}

// The operator's defaults (DESIGN 4), for what a Config leaves at zero.
const (
	defaultPollInterval       = 10 * time.Second
	defaultLeaseCheckInterval = 60 * time.Second
	defaultStartTimeout       = 2 * time.Minute
)

var (
	// ErrEnded is a Host's answer when the task ended, or was stopped, before it could be restarted.
	ErrEnded = errors.New("the task has ended")
	// ErrNoJournal means that nothing is written about a task: it has no secrets of ours.
	ErrNoJournal = errors.New("no journal for this task")
	// ErrJournalUnreadable means that something is written about a task and makes no sense: it is
	// damaged, or a newer plugin wrote it. The task is to be recovered unwatched (DESIGN 2).
	ErrJournalUnreadable = errJournalUnreadable
	// ErrClosed is the answer of a Keeper after Close.
	ErrClosed = errors.New("the keeper is closed")
)

// Keeper keeps the secrets of all tasks of one plugin process: it owns the sessions, the shared
// polls, the request rate and the revocations still owed. Safe for concurrent use.
type Keeper struct {
	cfg    Config
	files  privateFiles
	random func() float64 // in [0, 1); safe for concurrent use

	limit *limiter
	polls *poller
	debts *debts
	// digestKey makes digests of secrets useless outside this process: they are compared, not kept.
	digestKey []byte

	stopSweep context.CancelFunc
	sweeping  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	closed   bool
	sessions map[taskKey]*Session
}

// taskKey names a task as the journal does: a task's next start takes the place of the one before.
type taskKey struct{ alloc, task string }

func (t Task) key() taskKey { return taskKey{t.AllocID, t.Name} }

// New starts a Keeper and takes up the revocations still owed. Close ends it.
func New(cfg Config) (*Keeper, error) {
	if cfg.PollInterval <= 0 {
		cfg.PollInterval = defaultPollInterval
	}
	if cfg.LeaseCheckInterval <= 0 {
		cfg.LeaseCheckInterval = defaultLeaseCheckInterval
	}
	if cfg.StartTimeout <= 0 {
		cfg.StartTimeout = defaultStartTimeout
	}
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	k := &Keeper{
		cfg:       cfg,
		files:     privateFiles{secrets.HardenPrivate, secrets.ReadPrivate},
		random:    mathrand.Float64,
		limit:     newLimiter(cfg.RequestRate),
		digestKey: make([]byte, 32),
		sessions:  map[taskKey]*Session{},
	}
	_, _ = rand.Read(k.digestKey) // never fails
	var err error
	k.debts, err = newDebts(debtsConfig{
		stateDir: cfg.StateDir,
		provider: cfg.Provider,
		limit:    k.limit,
		random:   func() float64 { return k.random() },
		refused:  k.revocationRefused,
		log:      cfg.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("take up the revocations owed: %w", err)
	}
	k.polls = newPoller(pollerConfig{
		read:     cfg.Provider.Read,
		limit:    k.limit,
		interval: cfg.PollInterval,
		digest:   k.digest,
		random:   func() float64 { return k.random() },
		log:      cfg.Log,
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
	k.polls.close()
	k.debts.close()
}

// Start is what a session begins with.
type Start struct {
	Task   Task
	Spec   *secrets.Spec
	Config secrets.TaskConfig // what Spec was compiled from; journalled, and compiled again at recovery
	Env    map[string]string  // the task's environment as Nomad gave it: VAULT_TOKEN, VAULT_NAMESPACE
	Driver json.RawMessage    // the driver's own notes, journalled with the intent
}

// Open journals the intent, gets a token, fetches and renders all of a task's secrets. It waits
// out an outage until Config.StartTimeout, then returns an error of kind secrets.Outage. On error
// nothing is left: no lease, no token, no journal; what must be revoked for that is owed by then.
func (k *Keeper) Open(ctx context.Context, st Start, h Host) (*Session, error) {
	if err := k.Abandon(st.Task); err != nil && !errors.Is(err, ErrNoJournal) {
		return nil, fmt.Errorf("end what an earlier start left: %w", err)
	}
	id, err := k.identify(st)
	if err != nil {
		return nil, err
	}
	s := k.newSession(st.Task, st.Spec, h)
	s.identity = id
	if s.policies, err = k.policiesOf(st.Config, id); err != nil {
		return nil, err
	}
	s.namespace = firstOf(st.Spec.Namespace, st.Env["VAULT_NAMESPACE"], k.cfg.Namespace)
	s.journal, err = createJournal(k.cfg.StateDir, entry{
		Task: st.Task, Step: stepStarting, Config: st.Config, Driver: st.Driver,
		TokenSource: id.source, Namespace: s.namespace, Role: id.role,
	})
	if err != nil {
		return nil, err
	}
	if err := k.add(s); err != nil {
		return nil, errors.Join(err, s.journal.remove())
	}
	crashpoint.Reached(crashpoint.IntentJournalled, st.Task.Name)
	if err := s.begin(ctx); err != nil {
		s.End() // the undo of every step: it revokes what the journal says was made
		return nil, err
	}
	return s, nil
}

// Recover takes up the session of a task that is running already, from its journal. Nothing is
// minted and nothing restarted. ErrNoJournal if there is none, ErrJournalUnreadable if it makes no
// sense.
func (k *Keeper) Recover(t Task, h Host) (*Session, error) {
	j, err := openJournal(k.cfg.StateDir, t)
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
	s := k.sessions[t.key()]
	k.mu.Unlock()
	if s != nil {
		s.End()
		return nil
	}
	return k.debts.oweTask(t)
}

// add makes s one of those that Close stops.
func (k *Keeper) add(s *Session) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		s.cancel()
		return ErrClosed
	}
	k.sessions[s.task.key()] = s
	return nil
}

func (k *Keeper) drop(s *Session) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sessions[s.task.key()] == s {
		delete(k.sessions, s.task.key())
	}
}

// revocationRefused tells of a token or a lease that stays until its TTL. The task has ended as a rule,
// so its events are over: the log has it, too.
func (k *Keeper) revocationRefused(t Task, say string, err error) {
	k.cfg.Log.Warn(say, "alloc_id", t.AllocID, "task", t.Name, "error", err)
	k.mu.Lock()
	s := k.sessions[t.key()]
	k.mu.Unlock()
	if s != nil {
		s.host.Event(say)
	}
}

func (k *Keeper) digest(f secrets.Fields) string {
	d := f.Digest(k.digestKey)
	return hex.EncodeToString(d[:])
}

func firstOf(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}
