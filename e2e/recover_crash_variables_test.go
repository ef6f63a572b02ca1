package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/nomad/api"
	"github.com/stretchr/testify/require"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
)

// withVariables starts two tasks with Nomad Variables, one that has nothing else and one that has a lease, too. It kills the plugin at a
// point of the second one's start, and at others of what follows when a variable of theirs changes. Nothing else may come to these points
// then. Both tasks stay.
func (m *crashMatrix) withVariables(start crashpoint.Point, changes ...crashpoint.Point) {
	m.within(stepBound)
	static := api.VariableItems{"username": "static_" + m.mark, "password": rand.Text()} // a user of MariaDB's
	require.NoError(m.T, m.MariaDB.Exec(m.Ctx, fmt.Sprintf("CREATE USER '%s'@'%%' IDENTIFIED BY '%s'", static["username"], static["password"])))
	put := func(ctx context.Context, name, value string) error {
		static["value"] = value
		_, _, err := m.Agent.Client().Variables().Create(&api.Variable{Path: "nomad/jobs/" + name, Items: static}, (&api.WriteOptions{}).WithContext(ctx))
		return err
	}
	submit := func(ctx context.Context, name, role, credentials string) (*harness.Job, error) {
		if err := put(ctx, name, "first"); err != nil {
			return nil, err
		}
		return m.Agent.Submit(ctx, m.JobFile("crash-variable"), harness.Var{Name: "name", Value: name}, harness.Var{Name: "driver", Value: m.driver},
			harness.Var{Name: "role", Value: role}, harness.Var{Name: "credentials", Value: credentials})
	}
	add := func(job *harness.Job) {
		m.Jobs = append(m.Jobs, job)
		m.add(job, slowLease) // nothing restarts it by itself
	}

	of := m.mark[len(m.mark)-1:] // Nomad makes a task's socket where the path to it is not too long
	alone, both := "var"+of, "both"+of
	job, err := submit(m.Ctx, alone, "", "nomad/jobs/"+alone)
	require.NoError(m.T, err)
	add(job)
	m.during("start, both providers", start, func(ctx context.Context) (err error) {
		job, err = submit(ctx, both, m.mark, m.mark+"/creds/"+m.mark+"slow")
		return err
	})
	add(job)
	require.NoError(m.T, m.healed(m.Ctx))
	for i, p := range changes {
		task := m.tasks[len(m.tasks)-1-i%2]
		value := fmt.Sprint("change ", i)
		before, err := task.alloc.Lines(task.name, "start ")
		require.NoError(m.T, err)
		m.during("change of a variable", p, func(ctx context.Context) error { return put(ctx, task.name, value) })
		m.Until("the variable's change in "+task.name, func() error {
			content, err := os.ReadFile(filepath.Join(task.alloc.SecretsDir(task.name), "value"))
			if err == nil && string(content) != value {
				err = fmt.Errorf("it has %q", content)
			}
			return err
		})
		// The next death must not come in the midst of the restart in place.
		m.Until("a process of "+task.name+" with the change", func() error {
			starts, err := task.alloc.Lines(task.name, "start ")
			if err == nil && len(starts) == len(before) {
				err = fmt.Errorf("it has started %d times", len(starts))
			}
			return err
		})
		require.NoError(m.T, m.healed(m.Ctx))
	}
}

// during kills the plugin at a point that what it does comes to.
func (m *crashMatrix) during(phase string, p crashpoint.Point, does func(context.Context) error) {
	m.T.Helper()
	ctx := m.T.Context()
	done := make(chan error, 1)
	go func() {
		err := harness.Until(ctx, "the death to be asked for", func() error {
			_, err := os.Lstat(filepath.Join(m.dir, string(p)))
			return err
		})
		if err == nil {
			err = does(ctx)
		}
		done <- err
	}()
	m.whileRunning(phase, p)
	require.NoError(m.T, <-done)
}
