package lifecycle

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// fakeHost is a task, as a session sees it.
type fakeHost struct {
	mu     sync.Mutex
	events []string
	acts   []string // "publish", "restart", "signal SIGHUP", "script …"
	at     []time.Time
	files  *secrets.Set
	env    *secrets.Set // of the process

	restart func(ctx context.Context) error // what a restart comes to
	publish func() error
	fits    func(*secrets.Set) error
	envRoom int // 0: what is usual
	script  func() (int, error)
	live    func(secret string, l Look)
	during  func(what string) // looks at the world in the middle of an act
	hang    string            // the act that begins so takes until the session ends
	serve   time.Duration     // how long the old process takes to finish, if it may
	served  []time.Time       // when it had, or might not any longer
}

// whileDoing has look called in the middle of each act from now.
func (h *fakeHost) whileDoing(look func(what string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.during = look
}

func (h *fakeHost) did(ctx context.Context, what string) error {
	h.mu.Lock()
	h.acts, h.at = append(h.acts, what), append(h.at, time.Now())
	during := h.during
	h.mu.Unlock()
	if during != nil {
		during(what)
	}
	if h.hang != "" && strings.HasPrefix(what, h.hang) {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (h *fakeHost) Publish(ctx context.Context, set *secrets.Set) error {
	if err := h.did(ctx, "publish"); err != nil {
		return err
	}
	if h.publish != nil {
		if err := h.publish(); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files = set
	return nil
}

func (h *fakeHost) Fits(set *secrets.Set) error {
	if h.fits != nil {
		return h.fits(set)
	}
	return nil
}

func (h *fakeHost) NomadToken() secrets.Value { return secrets.Value{} }

func (h *fakeHost) EnvRoom() int {
	if h.envRoom > 0 {
		return h.envRoom
	}
	return 2 << 20
}

func (h *fakeHost) Restart(ctx, serving context.Context, set *secrets.Set) error {
	if err := h.did(ctx, "restart"); err != nil {
		return err
	}
	if h.serve > 0 {
		wait(serving, h.serve)
		h.mu.Lock()
		h.served = append(h.served, time.Now())
		h.mu.Unlock()
	}
	if h.restart != nil {
		if err := h.restart(ctx); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.env = set
	return nil
}

func (h *fakeHost) Signal(ctx context.Context, sig string) error { return h.did(ctx, "signal "+sig) }

func (h *fakeHost) Script(ctx context.Context, _ *secrets.Set, sc secrets.Script) (int, error) {
	if err := h.did(ctx, "script "+sc.Command); err != nil {
		return 0, err
	}
	if h.script != nil {
		return h.script()
	}
	return 0, nil
}

func (h *fakeHost) Live(secret string, l Look) {
	if h.live != nil {
		h.live(secret, l)
	}
}

func (h *fakeHost) Event(msg string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, msg)
}

func (h *fakeHost) applied() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.acts)
}

func (h *fakeHost) said() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.events, "\n")
}

func (h *fakeHost) count(what string) (n int) {
	for _, a := range h.applied() {
		if a == what {
			n++
		}
	}
	return n
}
