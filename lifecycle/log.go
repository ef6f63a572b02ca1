package lifecycle

import (
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// logRequest logs one request to the server, at Debug: what it was, how long it took, and the error. No value is ever
// in a log line (L4).
func (s *Session) logRequest(what string, sent time.Time, err error, args ...any) {
	if !s.log.IsDebug() {
		return
	}
	args = append(args, "duration", time.Since(sent).String())
	if err != nil {
		args = append(args, "error", err)
	}
	s.log.Debug(what, args...)
}

// logRotation logs what a rotation changed: a line for the task, at Info, and one for each secret, at Debug.
func (s *Session) logRotation(now time.Time, r *rotation, err error) {
	took := now.Sub(r.began).String()
	names := secrets.Cut(strings.Join(r.names(), ", "), maxOutcome)
	s.log.Info("secrets replaced", "secrets", names, "change_mode", r.mode.String(), "duration", took, "applied", err == nil)
	for _, c := range r.batch {
		cause := c.reason()
		if cause == "" {
			cause = "changed on the server"
		}
		s.log.Debug("rotation", "secret", c.name, "cause", cause, "change_mode", c.change.Mode.String(), "duration", took)
	}
}

// logJournal logs that something could not be journalled. The task is not disturbed for that.
func (s *Session) logJournal(what string, err error) {
	s.log.Error("not journalled, so a restart of the plugin would not know of it: is there room in state_dir?", "what", what, "error", err)
}
