package driver

import (
	"context"
	"fmt"
	"os/user"
	"strconv"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// processes runs tasks under raw_exec. Their environment reaches the process through the executor
// alone, so that only what is run in the task later needs the launcher.
type processes struct{}

func (p *processes) start(ctx context.Context, t *task, what delivery) (process, error) {
	who, err := lookupOwner(t.cfg.User)
	if err != nil {
		return process{}, err
	}
	set, err := what.give(ctx, who)
	if err != nil {
		return process{}, err
	}
	crashpoint.Reached(crashpoint.FilesPublished, t.cfg.Name)
	cfg, err := t.innerConfig(revealed(set.Env), t.options)
	if err != nil {
		return process{}, err
	}
	handle, network, err := t.d.startInner(cfg, t.logs)
	if err != nil {
		return process{}, retryableSaid(err)
	}
	crashpoint.Reached(crashpoint.InnerStarted, t.cfg.Name)
	clean, err := scrub(handle)
	if err != nil {
		_ = t.discardProcess() // it has said what it could not do
		return process{}, err
	}
	return process{handle: clean, network: network, owner: who}, nil
}

// holdCommand makes a command wait in the task's channel, which a process on the host has by the host's path.
func (p *processes) holdCommand(t *task) (*launcher.Hold, []string, error) {
	program, err := launcherFile.Install()
	if err != nil {
		return nil, nil, err
	}
	channel, err := t.d.channelOf(t.cfg)
	if err != nil {
		return nil, nil, err
	}
	if err := channel.Ensure(); err != nil {
		return nil, nil, err
	}
	hold, err := launcher.New(channel.Path())
	if err != nil {
		return nil, nil, err
	}
	hold.Meet(func() {
		if err := p.joinTask(t, hold); err != nil {
			t.d.log.Warn("what a command leaves may outlive its task, since it cannot be moved into the task's cgroup", "task_id", t.cfg.ID, "error", err)
		}
	})
	return hold, append([]string{program}, hold.Args(channel.Path())...), nil
}

// lookupOwner is the user that raw_exec runs a task's process as: its own where the job names none.
func lookupOwner(name string) (owner, error) {
	if name == "" {
		return owner{}, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return owner{}, fmt.Errorf("the task's user %q is not known on this node: %w", name, err)
		}
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return owner{}, fmt.Errorf("the id of user %q: %w", name, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return owner{}, fmt.Errorf("the group of user %q: %w", name, err)
	}
	return owner{UID: uid, GID: gid}, nil
}

// revealed is an environment in the clear, for the one call that hands it to a process.
func revealed(env map[string]secrets.Value) map[string]string {
	out := make(map[string]string, len(env))
	for name, value := range env {
		out[name] = value.Text()
	}
	return out
}
