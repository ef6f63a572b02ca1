package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// downJob wants a user of the database and one of the broker. It is made here: its secrets are declared, or granted.
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
      ` + lab.IdentityBlock + `
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

// A task that declares credentials of two engines, of which one's backend is down, does not start; the event says
// what to look at. Each attempt gives back what the other engine made for it, and when the
// backend is there again the task starts, with one user in each. One whose policies grant both starts with
// what there is, and gets the other when it is there. It is no parallel test: it stops servers that others use.
func TestABackendThatIsDown(t *testing.T) {
	l := newOwnLab(t, harness.AgentOptions{
		Name: "policies-down", Placement: harness.InPlace, Secrets: map[string]any{"start_timeout": "2s", "lease_check_interval": "5s"},
	}, lab.DefaultTimeout)
	rabbit, err := l.RabbitMQ(l.Ctx)
	require.NoError(t, err)
	require.NoError(t, l.Vault.EnableDatabase(l.Ctx, "down-db", l.MariaDB))
	require.NoError(t, l.Vault.DatabaseRole(l.Ctx, "down-db", "downed", time.Hour, 2*time.Hour))
	require.NoError(t, l.Vault.EnableRabbitMQ(l.Ctx, "down-mq", rabbit, time.Hour, 2*time.Hour))
	require.NoError(t, l.Vault.RabbitMQRole(l.Ctx, "down-mq", "queue"))
	l.AllowLeased("downed", "down-db/creds/downed", "down-mq/creds/queue")

	// users waits until there are n more in each than there were.
	before, err := rabbit.Users(l.Ctx)
	require.NoError(t, err)
	users := func(l *lab.Lab, when string, n int) {
		l.T.Helper()
		l.Until(fmt.Sprintf("%d users in the database and in the broker, %s", n, when), func() error {
			ours, err := l.MariaDB.Users(l.Ctx)
			if err != nil {
				return err
			}
			ours = slices.DeleteFunc(ours, func(user string) bool { return !strings.Contains(user, "-downed-") })
			brokers, err := rabbit.Users(l.Ctx)
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
			l := l.For(t)
			mark := l.Mark()
			down := true
			t.Cleanup(func() {
				if down {
					_ = backend.start(context.Background())
				}
			})
			backend.stop()
			declared := l.Submit(fmt.Sprintf(downJob, name+"-down-declared", downSecrets))
			granted := l.Submit(fmt.Sprintf(downJob, name+"-down-granted", `from_policies = "env"`))
			jobs := []*harness.Job{declared, granted}
			alloc := l.FirstAlloc(declared)
			event, err := alloc.WaitEvent(l.Ctx, "web", "Driver Failure")
			require.NoError(t, err)
			require.Contains(t, event, "read "+backend.path+": the server answers 500")
			require.Contains(t, event, "is the system behind the "+backend.engine+" up")
			require.Empty(t, lab.ProcessesOf(alloc, "testapp"))
			made, err := l.Vault.Requests(mark, backend.healthy)
			require.NoError(t, err)
			require.True(t, slices.ContainsFunc(made, func(r harness.Request) bool { return r.Job == declared.ID && r.Error == "" }),
				"the healthy engine made nothing that would have to be given back")

			without, err := granted.Running(l.Ctx)
			require.NoError(t, err)
			event, err = without.WaitEvent(l.Ctx, "web", "granted by the policies and skipped")
			require.NoError(t, err)
			require.Contains(t, event, backend.path+" (no answer: ")
			require.NotContains(t, event, backend.healthy)
			require.Len(t, l.Lines(without, "web", "start ", 1), 1)

			down = false
			require.NoError(t, backend.start(l.Ctx))
			alloc, err = declared.Running(l.Ctx)
			require.NoError(t, err)
			require.Len(t, l.Lines(alloc, "web", "start ", 1), 1, "processes started")
			l.Lines(without, "web", "start ", 2) // in place, with both
			restarts, err := without.Restarts(l.Ctx, "web")
			require.NoError(t, err)
			require.Zero(t, restarts)
			users(l, "each task having started", len(jobs))
			for _, job := range jobs {
				require.NoError(t, job.Stop(l.Ctx))
			}
			users(l, "each task having ended", 0)
		})
	}
	l.JournalEmpty()
}
