package control

import (
	"context"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
)

// Report is what one plugin process says of itself.
type Report struct {
	Driver  string    `json:"driver"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started,omitzero"`
	Version string    `json:"version,omitempty"`
	Commit  string    `json:"commit,omitempty"`
	Nomad   string    `json:"wrapped_nomad,omitempty"` // the version that the wrapped driver is from
	Config  string    `json:"config,omitempty"`        // a hash of its configuration
	Server  string    `json:"server,omitempty"`        // the address of its secrets server
	// AgentGone is since when no agent is connected to it; zero: one is.
	AgentGone time.Time `json:"agent_gone,omitzero"`
	// Problem is why it cannot have tasks with secrets, or why it did not answer; empty: neither.
	Problem string `json:"problem,omitempty"`

	Tasks       []lifecycle.TaskStatus       `json:"tasks"`
	Revocations []lifecycle.RevocationStatus `json:"revocations"`
}

// Done is what one plugin process has done.
type Done struct {
	Driver   string              `json:"driver"`
	PID      int                 `json:"pid"`
	Problem  string              `json:"problem,omitempty"` // why it did not answer
	Outcomes []lifecycle.Outcome `json:"outcomes"`
}

// Plugin is a plugin process, as its socket needs it.
type Plugin interface {
	// Report must wait for nothing.
	Report() Report
	Operate(ctx context.Context, op lifecycle.Operation, sel lifecycle.Selection) ([]lifecycle.Outcome, error)
}

// The limits of a request and of an answer.
const (
	maxRequest = 64 << 10
	maxAnswer  = 256 << 20
)

const (
	statusPath = "/v1/status"
	opPath     = "/v1/" // and the operation's name
)
