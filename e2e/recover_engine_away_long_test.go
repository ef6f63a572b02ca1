//go:build long

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/stretchr/testify/require"
)

// C12: a Docker engine with live-restore is away for 20 s from the moment of a restart in place's stop on. The task gets its new secret
// when the engine is back, has one process, keeps its lease, and Nomad has restarted nothing.
func TestLongEngineAwayAtAStop(t *testing.T) {
	t.Parallel()
	engine, err := shared.NewEngine(t.Context(), "engine-away")
	if engine != nil {
		t.Cleanup(func() { require.NoError(t, engine.Close()) })
	}
	require.NoError(t, err)
	l := engineLab{newOwnLab(t, harness.AgentOptions{
		Name: "engine-away", Placement: harness.InPlace, DockerHCL: fmt.Sprintf("endpoint = %q", engine.Host),
		Meta: map[string]string{"engine": engine.Host},
	}, 4*time.Minute), engine}
	require.NoError(t, l.Vault.EnableDatabase(l.Ctx, "database", l.MariaDB))
	require.NoError(t, l.Vault.DatabaseRole(l.Ctx, "database", "engine-app", 20*time.Second, time.Hour))
	l.PutColour("engine-app", "green")
	l.AllowLeased("engine-app", "database/creds/engine-app", "secret/data/engine-app")
	job, err := os.ReadFile("jobs/engine-app.nomad.hcl")
	require.NoError(t, err)
	alloc := l.Run(strings.Replace(string(job), `["sighup"`, `["-linger", "4s", "sighup"`, 1))
	l.Lines(alloc, "app", "file ", 1)
	pid, lease := l.pid(alloc, "app"), l.theLease()

	l.PutColour("engine-app", "blue")
	l.Lines(alloc, "app", "stopping", 1)
	require.NoError(t, engine.Kill(l.Ctx))
	<-time.After(20 * time.Second) // what is looked at is an engine that is away for a while
	require.NoError(t, engine.Start(l.Ctx))
	l.another(alloc, pid)
	l.Lines(alloc, "app", "file ", 2)
	require.Contains(t, l.environ(alloc), "COLOUR=blue")
	require.NoDirExists(t, fmt.Sprint("/proc/", pid), "the old process")
	require.Equal(t, lease, l.theLease())
	l.hears(alloc)
	l.NotRestarted(alloc, "app")
}
