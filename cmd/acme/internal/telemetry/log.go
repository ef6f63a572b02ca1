package telemetry

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/acme/internal/redact"
)

// NewLog is the issuer's log.
func NewLog(out io.Writer, level string, asJSON bool) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name: "acme-issuer", Output: out, Level: hclog.LevelFromString(level), JSONFormat: asJSON,
	})
}

// Slog passes on what lego logs, without credentials. Its steps are details of ours, and so one level lower.
func Slog(log hclog.Logger, redactor *redact.Redactor) *slog.Logger {
	return slog.New(&handler{log: log.Named("lego"), redactor: redactor})
}

type handler struct {
	log      hclog.Logger
	redactor *redact.Redactor
	args     []any
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return h.log.GetLevel() <= lower(level)
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	args := append([]any(nil), h.args...)
	r.Attrs(func(a slog.Attr) bool {
		args = append(args, a.Key, h.redactor.String(a.Value.String()))
		return true
	})
	h.log.Log(lower(r.Level), h.redactor.String(r.Message), args...)
	return nil
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.args = append([]any(nil), h.args...)
	for _, a := range attrs {
		with.args = append(with.args, a.Key, h.redactor.String(a.Value.String()))
	}
	return &with
}

func (h *handler) WithGroup(string) slog.Handler { return h }

func lower(level slog.Level) hclog.Level {
	switch {
	case level >= slog.LevelError:
		return hclog.Error
	case level >= slog.LevelWarn:
		return hclog.Warn
	case level >= slog.LevelInfo:
		return hclog.Debug
	}
	return hclog.Trace
}
