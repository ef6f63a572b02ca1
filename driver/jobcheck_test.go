package driver

import (
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Who checks a job has the schema that an agent is given, and the refusals of a start.
func TestForJob(t *testing.T) {
	for _, name := range Names() {
		d, err := New(t.Context(), name, hclog.NewNullLogger())
		require.NoError(t, err)
		want, err := d.TaskConfigSchema()
		require.NoError(t, err)
		job, ok := ForJob(name)
		require.True(t, ok)
		got, err := job.TaskSchema()
		require.NoError(t, err)
		require.Equal(t, want, got)
		d.Close()
	}
	_, ok := ForJob("exec")
	require.False(t, ok)

	raw, _ := ForJob("raw_exec")
	cfg := &drivers.TaskConfig{Name: "..", Mounts: []*drivers.MountConfig{{TaskPath: "/data"}}}
	spec, err := raw.Check(cfg, secrets.TaskConfig{})
	require.ErrorContains(t, err, "the task asks for a mount at /data")
	require.Nil(t, spec)
	_, err = raw.Check(cfg, secrets.TaskConfig{Secrets: map[string]*secrets.SecretConfig{"a": {Path: "secret/a"}}})
	require.ErrorContains(t, err, `a task named ".." shares its directory`)
	require.Len(t, secrets.Problems(err), 2)
}
