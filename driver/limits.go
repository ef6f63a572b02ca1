package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
)

// The launcher is a Go program, which needs some threads, and each of them is a process to the kernel's limits.
// A job may allow fewer. Then the container starts with more, and its program gets what the job says: the
// user's limit (ulimit nproc) from the launcher, just before it becomes the program, and the container's
// (pids_limit) from Docker, as soon as it has.

// launcherPids is what the launcher may need, with an init process beside it.
const launcherPids = 16

// enoughProcesses is a user's limit that the launcher comes up under, whatever else the user runs on an ordinary node.
const enoughProcesses = 1024

// processLimits is how many processes a job allows.
type processLimits struct {
	user      *launcher.Limit // nil: as many as elsewhere
	container int64           // 0: as many as the operator allows
}

// processLimitsOf reads a docker task's config. What the wrapped driver would refuse is left to it.
func processLimitsOf(options map[string]any) processLimits {
	var l processLimits
	l.container = max(0, intOption(options["pids_limit"]))
	for _, ulimit := range ulimits(options) {
		// A larger one is no obstacle to the launcher, and only Docker may raise it.
		if value, ok := ulimit["nproc"].(string); ok {
			if user := parseUlimit(value); user != nil && user.Soft < enoughProcesses {
				l.user = user
			}
		}
	}
	return l
}

// forLauncher gives a container's config without the limits that the launcher could not come up under. mayHave
// is the operator's own pids_limit, 0 for none.
func (l processLimits) forLauncher(options map[string]any, mayHave int64) map[string]any {
	options = maps.Clone(options)
	if l.raised(mayHave) {
		options["pids_limit"] = raisedPids(mayHave)
	}
	if l.user != nil {
		var rest []any
		for _, ulimit := range ulimits(options) {
			ulimit = maps.Clone(ulimit)
			if _, ok := ulimit["nproc"]; ok {
				delete(ulimit, "nproc")
				if l.user.Hard >= enoughProcesses && l.user.Hard != math.MaxUint64 { // the launcher cannot raise it again
					ulimit["nproc"] = fmt.Sprintf("%d:%d", l.user.Hard, l.user.Hard)
				}
			}
			rest = append(rest, ulimit)
		}
		options["ulimit"] = rest
	}
	return options
}

// raised reports whether the container's limit is another while the launcher runs.
func (l processLimits) raised(mayHave int64) bool {
	return l.container > 0 && l.container < raisedPids(mayHave)
}

func raisedPids(mayHave int64) int64 {
	if mayHave > 0 {
		return min(launcherPids, mayHave)
	}
	return launcherPids
}

// limitPids gives a container the limit that its job asks for, if it has another for the launcher's sake.
func (c *containers) limitPids(ctx context.Context, docker *client.Client, id string, options map[string]any) error {
	l := processLimitsOf(options)
	if !l.raised(c.pidsLimit) {
		return nil
	}
	_, err := docker.ContainerUpdate(ctx, id, container.UpdateConfig{Resources: container.Resources{PidsLimit: &l.container}})
	if err == nil || hasEnded(ctx, docker, id) {
		return nil
	}
	return fmt.Errorf("set the pids_limit of container %s to %d: %w", id, l.container, err)
}

// How long Docker may take to notice a container's end.
const (
	endLooks = 10
	endPause = 100 * time.Millisecond
)

// hasEnded reports whether a container's program has ended: it may be a short one, and what Docker says of its
// container then is no fault of the start.
func hasEnded(ctx context.Context, docker *client.Client, id string) bool {
	for range endLooks {
		found, err := docker.ContainerInspect(ctx, id)
		if errdefs.IsNotFound(err) || err == nil && found.State != nil && !found.State.Running {
			return true
		}
		select {
		case <-time.After(endPause):
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// recoverPids does the same for a container whose plugin may have ended before it did.
func (c *containers) recoverPids(ctx context.Context, p process, options map[string]any) error {
	if l := processLimitsOf(options); !p.channel || !l.raised(c.pidsLimit) {
		return nil
	}
	id, err := containerID(p.handle)
	if err != nil {
		return err
	}
	docker, err := c.endpoint.client()
	if err != nil {
		return err
	}
	defer docker.Close()
	return c.limitPids(ctx, docker, id, options)
}

// errFewPids adds to a launcher's failure that there may have been too few processes for it.
func errFewPids(err error, limit int64) error {
	if limit <= 0 || limit >= launcherPids {
		return err
	}
	return fmt.Errorf("%w (its pids_limit is %d, and the launcher needs up to %d)", err, limit, launcherPids)
}

// ulimits are the maps of the option, which is a list of them.
func ulimits(options map[string]any) []map[string]any {
	var found []map[string]any
	list, _ := options["ulimit"].([]any)
	for _, item := range list {
		if m, ok := item.(map[string]any); ok {
			found = append(found, m)
		}
	}
	return found
}

// parseUlimit reads "SOFT:HARD", or one number for both, as the wrapped driver does; nil if it cannot.
func parseUlimit(value string) *launcher.Limit {
	soft, hard, two := strings.Cut(value, ":")
	if !two {
		hard = soft
	}
	var l launcher.Limit
	var errs [2]error
	l.Soft, errs[0] = parseLimit(soft)
	l.Hard, errs[1] = parseLimit(hard)
	if errors.Join(errs[:]...) != nil {
		return nil
	}
	return &l
}

// parseLimit reads one limit, of which -1 is none.
func parseLimit(s string) (uint64, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, err
	}
	if n < 0 {
		return math.MaxUint64, nil
	}
	return uint64(n), nil
}

// intOption is an option that is a whole number, in whatever type it was decoded to.
func intOption(value any) int64 {
	switch n := value.(type) {
	case int64:
		return n
	case uint64:
		return int64(min(n, math.MaxInt64))
	case int:
		return int64(n)
	case float64:
		return int64(n)
	default:
		return 0
	}
}
