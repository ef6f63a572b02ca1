package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A container that ends while it waits for its command has ended like any other: the restart block says what
// is next. With this stack no program lives to its first line.
func TestContainerEndsAtTheLauncher(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.putColour("stackless", "green")
	l.mayRead("stackless", "secret/data/stackless")
	job := l.submit(fmt.Sprintf(`
job "stackless" {
  type = "batch"
  group "g" {
    restart {
      attempts = 1
      delay    = "0s"
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    task "app" {
      driver = "docker"
      %s
      config {
        image   = "${meta.image}"
        command = "testapp"
        args    = ["sleep"]
        role    = "stackless"
        ulimit {
          stack = "4096"
        }
        secret "app" {
          path = "secret/stackless"
          env  = { COLOUR = "colour" }
        }
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`, identityBlock))
	alloc := l.started(job, "g")
	l.event(alloc, "the process ended while it was held at the launcher")
	state, err := alloc.Ended(l.ctx, "app")
	require.NoError(t, err)
	require.True(t, state.Failed)
	require.EqualValues(t, 1, state.Restarts)
	l.noProcess(alloc, "app")
	l.noJournal(alloc)
}
