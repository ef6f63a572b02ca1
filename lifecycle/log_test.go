package lifecycle

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
)

// lockedBuffer is a log that several goroutines write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(l.b.String(), "\n")
}

// docs/failures.md, "When things fail": at Debug a line for each login, fetch, renewal, rotation and revocation, with the task, the secret, the
// cause and the duration; and never a value (L4).
func TestLogOfATasksLife(t *testing.T) {
	inWorld(t, func(w *world) {
		w.keeper.Close()
		log := &lockedBuffer{}
		w.cfg.Log = hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Debug})
		w.start()
		withDB(w)
		s := w.open(many{"db": db("")})
		value := s.Set().Env["DB_USER"].Text()
		require.NotEmpty(t, value)
		w.sleep(26 * time.Hour) // past the lease's maximum
		require.Positive(t, w.host.count("restart"))
		s.End()
		synctest.Wait()

		for message, attributes := range map[string][]string{
			"login":            {"role=nomad-workloads", "duration="},
			"fetch":            {"secret=db", "duration="},
			"renewal":          {"secret=db", "duration="},
			"token renewal":    {"duration="},
			"rotation":         {"secret=db", `cause="its lease reached its maximum"`, "change_mode=restart", "duration="},
			"secrets replaced": {"secrets=db", "change_mode=restart", "applied=true"},
			"revocation":       {"leases=", "tokens=", "attempts=1", "duration="},
		} {
			found := false
			for _, line := range log.lines() {
				_, text, _ := strings.Cut(line, "]")
				if !strings.HasPrefix(strings.TrimSpace(text), message+": ") {
					continue
				}
				found = true
				for _, a := range append(attributes, "alloc_id=", "task=web") {
					require.Contains(t, line, a)
				}
			}
			require.True(t, found, "%s in\n%s", message, strings.Join(log.lines(), "\n"))
		}
		text := strings.Join(log.lines(), "\n")
		require.NotContains(t, text, value)
		require.NotContains(t, text, "pass-")
		require.NotContains(t, text, "journal: error=")
	})
}
