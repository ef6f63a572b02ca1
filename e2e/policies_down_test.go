package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// downJob wants a user of the database and one of the broker.
const downJob = `
job "%[1]s" {
  group "g" {
    restart {
      attempts = 60
      interval = "10m"
      delay    = "1s"
      mode     = "fail"
    }
    task "web" {
      driver = "raw_exec"
      ` + identityBlock + `
      config {
        role    = "downed"
        command = "testapp"
        args    = ["env", "DOWNED_USERNAME", "QUEUE_USERNAME"]
        %[2]s
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`

const downSecrets = `
secret "downed" {
	path       = "down-db/creds/downed"
	env_prefix = "DOWNED_"
}
secret "queue" {
	path       = "down-mq/creds/queue"
	env_prefix = "QUEUE_"
}`

// A task with credentials of two engines, of which one's backend is down, does not start; the event says
// what to look at. Each attempt gives back what the other engine made for it, and when the
// backend is there again the task starts, with one user in each. It is no parallel test: it stops servers
// that others use.
func TestABackendThatIsDown(t *testing.T) {
	l := newOwnLab(t, harness.AgentOptions{
		Name: "policies-down", Placement: harness.InPlace, Secrets: map[string]any{"start_timeout": "2s"},
	}, testTimeout)
	rabbit, err := l.RabbitMQ(l.ctx)
	require.NoError(t, err)
	require.NoError(t, l.Vault.EnableDatabase(l.ctx, "down-db", l.MariaDB))
	require.NoError(t, l.Vault.DatabaseRole(l.ctx, "down-db", "downed", time.Hour, 2*time.Hour))
	require.NoError(t, l.Vault.EnableRabbitMQ(l.ctx, "down-mq", rabbit, time.Hour, 2*time.Hour))
	require.NoError(t, l.Vault.RabbitMQRole(l.ctx, "down-mq", "queue"))
	l.mayRead("downed", "down-db/creds/downed", "down-mq/creds/queue")

	// users waits until there are n more in each than there were.
	before, err := rabbit.Users(l.ctx)
	require.NoError(t, err)
	users := func(l *lab, when string, n int) {
		l.t.Helper()
		l.until(fmt.Sprintf("%d users in the database and in the broker, %s", n, when), func() error {
			ours, err := l.MariaDB.Users(l.ctx)
			if err != nil {
				return err
			}
			ours = slices.DeleteFunc(ours, func(user string) bool { return !strings.Contains(user, "-downed-") })
			brokers, err := rabbit.Users(l.ctx)
			if err == nil && (len(ours) != n || len(brokers) != len(before)+n) {
				err = fmt.Errorf("there are %v, and %v", ours, brokers)
			}
			return err
		})
	}
	users(l, "at first", 0)

	for name, backend := range map[string]struct {
		path, healthy, engine string
		stop                  func()
		start                 func(context.Context) error
	}{
		"database": {"down-db/creds/downed", "down-mq/creds/queue", "database engine at down-db/", l.MariaDB.Stop, l.MariaDB.Start},
		"broker":   {"down-mq/creds/queue", "down-db/creds/downed", "rabbitmq engine at down-mq/", rabbit.Stop, rabbit.Start},
	} {
		t.Run(name, func(t *testing.T) {
			l := l.of(t)
			mark := l.mark()
			down := true
			t.Cleanup(func() {
				if down {
					_ = backend.start(context.Background())
				}
			})
			backend.stop()
			jobs := []*harness.Job{
				l.submit(fmt.Sprintf(downJob, name+"-down-declared", downSecrets)),
				l.submit(fmt.Sprintf(downJob, name+"-down-granted", `from_policies = "env"`)),
			}
			for _, job := range jobs {
				alloc := l.alloc(job)
				event, err := alloc.WaitEvent(l.ctx, "web", "Driver Failure")
				require.NoError(t, err)
				require.Contains(t, event, "read "+backend.path+": the server answers 500")
				require.Contains(t, event, "is what the "+backend.engine+" talks to up")
				require.Empty(t, processesOf(alloc, "testapp"))
				made, err := l.Vault.Requests(mark, backend.healthy)
				require.NoError(t, err)
				require.True(t, slices.ContainsFunc(made, func(r harness.Request) bool { return r.Job == job.ID && r.Error == "" }),
					"the healthy engine made nothing that would have to be given back")
			}
			down = false
			require.NoError(t, backend.start(l.ctx))
			for _, job := range jobs {
				alloc, err := job.Running(l.ctx)
				require.NoError(t, err)
				require.Len(t, l.lines(alloc, "web", "start ", 1), 1, "processes started")
			}
			users(l, "each task having started", len(jobs))
			for _, job := range jobs {
				require.NoError(t, job.Stop(l.ctx))
			}
			users(l, "each task having ended", 0)
		})
	}
	l.nothingJournalled()
}
