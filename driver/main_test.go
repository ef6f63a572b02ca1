package driver

import (
	"testing"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
)

// The wrapped drivers' own goroutines end with their context, at a moment of their choosing; Nomad
// gives no way to join them.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func testLog(t *testing.T) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: t.Name(), Level: hclog.Off})
}
