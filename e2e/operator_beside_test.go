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
	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/lab"
	"github.com/stretchr/testify/require"
)

// Ours beside the built-in drivers, for longer than the time after which a docker driver
// removes containers that it does not know. The built-in's removal is switched off, as it must be; ours is
// switched on in the configuration, and must be off all the same (docs/nomad.md). Meanwhile the tasks with
// secrets are what they are in the built-in's place.
func TestBeside(t *testing.T) {
	t.Parallel()
	const grace = time.Minute // the shortest that Nomad takes
	l := newOwnLab(t, harness.AgentOptions{Name: "beside", Placement: harness.Beside, DanglingGrace: grace}, 6*time.Minute)
	begun := time.Now()

	node, err := l.Agent.Node(l.Ctx)
	require.NoError(t, err)
	for _, driver := range []string{"docker", "raw_exec"} {
		require.Empty(t, node.Attributes["driver."+driver+".secrets"], "the built-in claims to have secrets")
		require.NotEmpty(t, node.Attributes["driver."+driver+"-secrets.secrets"])
		require.NotEmpty(t, node.Attributes["driver."+driver])
		require.NotEmpty(t, node.Attributes["driver."+driver+"-secrets"])
	}
	require.Equal(t, node.Attributes["driver.docker.version"], node.Attributes["driver.docker-secrets.version"])

	// At once, since a driver that means to remove containers would remove those of every test here.
	l.Soon("the plugin to say that it removes no containers", grace/3, func(context.Context) error {
		log, err := os.ReadFile(l.Agent.LogPath)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(log)) {
			if strings.Contains(line, "skipping dangling containers handling") && strings.Contains(line, "driver=docker-secrets") {
				return nil
			}
		}
		return errors.New("not a word of it")
	})

	var tasks []lab.KeptTask
	for _, driver := range []string{"docker", "raw_exec"} {
		alloc := l.RunFileAsIs("plain", lab.Vars{"name": "beside-plain-" + driver, "driver": driver})
		l.Lines(alloc, "web", "start ", 1)
		tasks = append(tasks, lab.KeptTask{Alloc: alloc, Task: "web", Driver: driver, Process: l.ProcessOf(alloc, "web", driver)})
	}
	var secret []*lab.Survivor
	for _, driver := range []string{"docker", "raw_exec"} {
		secret = append(secret, lab.RecoveryTask{Driver: driver, Token: "identity"}.Start(l, "beside"))
	}
	// One that has no secrets is ours as well.
	ours := l.RunFile("plain", lab.Vars{"name": "beside-ours", "driver": "docker"})
	l.Lines(ours, "web", "start ", 1)
	tasks = append(tasks, lab.KeptTask{Alloc: ours, Task: "web", Driver: "docker", Process: l.ProcessOf(ours, "web", "docker")})

	for _, s := range secret {
		s.Rotate(l, "blue")
		s.RevokeLease(l)
	}

	// A driver looks half a grace apart, at containers older than the grace.
	settled := begun.Add(grace)
	for _, s := range append(tasks, lab.KeptTask{Alloc: secret[0].Alloc, Task: "web", Driver: "docker"}) {
		if s.Driver == "docker" {
			inspect, err := s.Alloc.Container(l.Ctx, s.Task)
			require.NoError(t, err)
			created, err := time.Parse(time.RFC3339Nano, inspect.Created)
			require.NoError(t, err)
			if at := created.Add(grace); at.After(settled) {
				settled = at
			}
		}
	}
	settled = settled.Add(grace/2 + 5*time.Second)
	l.Until("the grace to be over", func() error {
		if left := time.Until(settled); left > 0 {
			return fmt.Errorf("%s to go", left)
		}
		return nil
	})
	l.AllKept(tasks)
	for _, s := range secret {
		require.Equal(t, s.Process, l.ProcessOf(s.Alloc, "web", s.Driver))
		s.Rotate(l, "red")
		s.Stop(l)
	}
	l.JournalEmpty()
}
