package lifecycle

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// A start that waits says for what and until when, once, after 3 s. The errors are as the Vault provider words them.
func TestStartSaysWhatItWaitsFor(t *testing.T) {
	away := func(format string, args ...any) error { return secrets.Errorf(secrets.Outage, format, args...) }
	for name, test := range map[string]struct {
		call  string // that fails; empty: all
		err   error
		until string
		says  string
	}{
		"sealed": {"", away("log in at auth/jwt-nomad: the server answers 503 Vault is sealed"), "00:02:00 UTC", "503 Vault is sealed"},
		"unreachable": {"login", away("log in at auth/jwt-nomad: no answer: dial tcp 127.0.0.1:8200: connect: connection refused"),
			"00:02:00 UTC", "connection refused"},
		"https to an http port": {"login", away("log in at auth/jwt-nomad: no answer: http: server gave HTTP response to HTTPS client"),
			"00:02:00 UTC", "server gave HTTP response to HTTPS client"},
		"no file of the CA yet": {"login", away("ca_cert: open /etc/vault/ca.pem: no such file or directory"), "00:02:00 UTC", "ca_cert: "},
		"a database without configuration": {"read database/creds/app", &secrets.Error{
			Kind: secrets.Outage, Elsewhere: true,
			Err: errors.New(`the server answers 500 failed to find entry for connection with name: "app"`),
		}, "00:02:00 UTC", `secret "db": read database/creds/app: the server answers 500 failed to find entry`},
		"denied": {"read database/creds/app", errDenied, "00:00:05 UTC", `secret "db": read database/creds/app: permission denied`},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				withDB(w)
				if test.call == "" {
					w.vault.set(test.err)
				} else {
					w.vault.fail[test.call] = test.err
				}
				early, soon := make(chan []string, 1), make(chan []string, 1)
				time.AfterFunc(waitEventAfter-time.Millisecond, func() { early <- w.host.waits() })
				time.AfterFunc(waitEventAfter+time.Millisecond, func() { soon <- w.host.waits() })
				_, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": db("")}), w.host)
				require.Error(w.t, err)
				require.Empty(w.t, <-early, "a moment is not worth an event")
				told := <-soon
				require.Len(w.t, told, 1, "3 s after the start began")
				require.True(w.t, strings.HasPrefix(told[0], "Secrets: the start waits, and tries again until "+test.until+", because of: "), told[0])
				require.Contains(w.t, told[0], test.says)
				require.Equal(w.t, told, w.host.waits(), "it is one event")
			})
		})
	}
}

// What answers in time, and what only stumbles, says nothing.
func TestStartThatDoesNotWaitLong(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.set(errAway)
		time.AfterFunc(1500*time.Millisecond, func() { w.vault.set(nil) })
		s := w.open(many{"db": db("")})
		w.sleep(time.Minute)
		require.Empty(w.t, w.host.waits())
		s.End()
	})
}

// A server that takes the request and does not answer leaves no error to tell of.
func TestStartSaysThatNothingAnswers(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		w.vault.slow = map[string]time.Duration{"read database/creds/app": 40 * time.Second}
		s := w.open(many{"db": db("")})
		require.Equal(w.t, []string{"Secrets: the start waits for its secrets until 00:02:00 UTC, and has no answer yet"}, w.host.waits())
		s.End()
	})
}

// Another cause is told, too; the same one in other numbers is not, and never more than a few.
func TestStartSaysWhenTheCauseChanges(t *testing.T) {
	inWorld(t, func(w *world) {
		withDB(w)
		causes := []string{"connection refused", "connection refused", "503 Vault is sealed", "503 Vault is sealed", "no such host", "EOF", "broken pipe"}
		for i, cause := range causes {
			time.AfterFunc(time.Duration(i)*15*time.Second, func() {
				w.vault.set(secrets.Errorf(secrets.Outage, "from port %d: %s", 40000+i, cause))
			})
		}
		w.vault.set(secrets.Errorf(secrets.Outage, "from port 1: connection refused"))
		_, err := w.keeper.Open(w.t.Context(), w.startOf(many{"db": db("")}), w.host)
		require.Error(w.t, err)
		told := w.host.waits()
		require.Len(w.t, told, maxWaitEvents, fmt.Sprint(told))
		for i, cause := range []string{"connection refused", "503 Vault is sealed", "no such host"} {
			require.Contains(w.t, told[i], cause)
		}
	})
}

// waits are the events about a start that waits.
func (h *fakeHost) waits() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(h.events), func(e string) bool { return !strings.Contains(e, "the start waits") })
}
