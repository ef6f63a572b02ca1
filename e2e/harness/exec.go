package harness

import (
	"bytes"
	"context"
	"strings"

	"github.com/docker/docker/api/types/container"
)

// Exec runs a command in a task, as `nomad alloc exec` does, and returns what it printed on both outputs and
// its exit code. One that prints nothing runs again, five times in all: Nomad's docker driver does not wait for
// the output of a command that has ended (ExecTaskStreaming in Nomad 1.11), and loses it at times.
func (a *Alloc) Exec(ctx context.Context, task string, command ...string) (output string, code int, err error) {
	for range 5 {
		output, code, err = a.ExecAsIs(ctx, task, command...)
		if output != "" || err != nil {
			break
		}
	}
	return output, code, err
}

// ExecAsIs runs a command once. Its output may be lost.
func (a *Alloc) ExecAsIs(ctx context.Context, task string, command ...string) (output string, code int, err error) {
	info, err := a.Info(ctx)
	if err != nil {
		return "", 0, err
	}
	var stdout, stderr bytes.Buffer
	code, err = a.agent.api.Allocations().Exec(ctx, info, task, false, command,
		strings.NewReader(""), &stdout, &stderr, nil, a.Job.query(ctx))
	return stdout.String() + stderr.String(), code, err
}

// Container is what `docker inspect` says of a docker task's container; there is one at most.
func (a *Alloc) Container(ctx context.Context, task string) (container.InspectResponse, error) {
	docker, err := dockerClient()
	if err != nil {
		return container.InspectResponse{}, err
	}
	defer docker.Close()
	return docker.ContainerInspect(ctx, task+"-"+a.ID)
}
