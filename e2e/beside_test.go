package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// plainJob is a task of the built-in driver.
const plainJob = `
job "%s" {
  group "g" {
    task "web" {
      driver = "%s"
      config {
        %s
        command = "testapp"
        args    = ["-pidfile", "%s", "sleep"]
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`

// Ours beside the built-in drivers (DESIGN 2), for longer than the time after which a docker driver
// removes containers that it does not know. The built-in's removal is switched off, as it must be; ours is
// switched on in the configuration, and must be off all the same (DESIGN 9). Meanwhile the tasks with
// secrets are what they are in the built-in's place.
func TestBeside(t *testing.T) {
	t.Parallel()
	const grace = time.Minute // the shortest that Nomad takes
	l := newOwnLab(t, harness.AgentOptions{Name: "beside", Placement: harness.Beside, DanglingGrace: grace}, 6*time.Minute)
	begun := time.Now()

	node, err := l.agent.Node(l.ctx)
	require.NoError(t, err)
	for _, driver := range []string{"docker", "raw_exec"} {
		require.Empty(t, node.Attributes["driver."+driver+".secrets"], "the built-in claims to have secrets")
		require.NotEmpty(t, node.Attributes["driver."+driver+"-secrets.secrets"])
		require.NotEmpty(t, node.Attributes["driver."+driver])
		require.NotEmpty(t, node.Attributes["driver."+driver+"-secrets"])
	}
	require.Equal(t, node.Attributes["driver.docker.version"], node.Attributes["driver.docker-secrets.version"])

	// At once, since a driver that means to remove containers would remove those of every test here.
	soon, cancel := context.WithTimeout(l.ctx, grace/3)
	defer cancel()
	require.NoError(t, harness.Until(soon, "the plugin to say that it removes no containers", func() error {
		log, err := os.ReadFile(l.agent.LogPath)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, "skipping dangling containers handling") && strings.Contains(line, "driver=docker-secrets") {
				return nil
			}
		}
		return errors.New("not a word of it")
	}))

	var tasks []standing
	for driver, place := range map[string][2]string{"docker": {`image = "${meta.image}"`, "/local/pid"}, "raw_exec": {"", "pid"}} {
		job, err := l.agent.SubmitAsIs(l.ctx, fmt.Sprintf(plainJob, "beside-plain-"+driver, driver, place[0], place[1]))
		require.NoError(t, err)
		l.jobs = append(l.jobs, job)
		alloc, err := job.Running(l.ctx)
		require.NoError(t, err)
		l.lines(alloc, "web", "start ", 1)
		tasks = append(tasks, standing{alloc: alloc, task: "web", driver: driver, body: l.bodyOf(alloc, "web", driver)})
	}
	var secret []*survivor
	for _, driver := range []string{"docker", "raw_exec"} {
		secret = append(secret, recovering{driver, "identity"}.start(l, "beside"))
	}
	// One that has no secrets is ours as well.
	ours := l.run(fmt.Sprintf(plainJob, "beside-ours", "docker", `image = "${meta.image}"`, "/local/pid"))
	l.lines(ours, "web", "start ", 1)
	tasks = append(tasks, standing{alloc: ours, task: "web", driver: "docker", body: l.bodyOf(ours, "web", "docker")})

	for _, s := range secret {
		s.rotates(l, "blue")
		s.leaseReplaced(l)
	}

	// A driver looks half a grace apart, at containers older than the grace.
	settled := begun.Add(grace)
	for _, s := range append(tasks, standing{alloc: secret[0].alloc, task: "web", driver: "docker"}) {
		if s.driver == "docker" {
			inspect, err := s.alloc.Container(l.ctx, s.task)
			require.NoError(t, err)
			created, err := time.Parse(time.RFC3339Nano, inspect.Created)
			require.NoError(t, err)
			if at := created.Add(grace); at.After(settled) {
				settled = at
			}
		}
	}
	settled = settled.Add(grace/2 + 5*time.Second)
	l.until("the grace to be over", func() error {
		if left := time.Until(settled); left > 0 {
			return fmt.Errorf("%s to go", left)
		}
		return nil
	})
	l.stand(tasks)
	for _, s := range secret {
		require.Equal(t, s.body, l.bodyOf(s.alloc, "web", s.driver))
		s.rotates(l, "red")
		s.ends(l)
	}
	l.nothingJournalled()
}

// leaseReplaced revokes the task's lease behind its back: it gets another, and is restarted (C6).
func (s *survivor) leaseReplaced(l *lab) {
	l.t.Helper()
	old := s.lease
	require.NoError(l.t, l.agent.Vault().Client().Sys().RevokeWithContext(l.ctx, old))
	s.generation++
	l.lines(s.alloc, "web", "start ", s.generation)
	l.notRestarted(s.alloc, "web")
	s.look(l)
	require.NotEqual(l.t, old, s.lease)
}
