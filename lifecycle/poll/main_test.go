package poll

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	errAway   = secrets.Errorf(secrets.Outage, "connection refused")
	errDenied = secrets.Errorf(secrets.Refused, "permission denied")
)
