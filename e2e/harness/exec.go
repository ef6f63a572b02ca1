package harness

import (
	"bytes"
	"context"
	"strings"

	"github.com/docker/docker/api/types/container"
)

// Exec runs a command in a task, as `nomad alloc exec` does, and returns what it printed on both outputs and
// its exit code. The command stays for a moment: Nomad's docker driver does not wait for the output of one
// that has ended before the driver first looks (ExecTaskStreaming in Nomad 1.11).
func (a *Alloc) Exec(ctx context.Context, task string, command ...string) (output string, code int, err error) {
	linger := []string{"/bin/sh", "-c", `"$@"; code=$?; sleep 0.2; exit $code`, "linger"}
	return a.ExecAsIs(ctx, task, append(linger, command...)...)
}

// ExecAsIs is Exec with nothing around the command. Its output may be lost.
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
