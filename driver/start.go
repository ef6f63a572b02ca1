package driver

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/statedir"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/steps"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// StartTask starts a task: one without secrets is the inner driver's alone.
func (d *Driver) StartTask(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	if d.wrapped.check != nil {
		if err := d.wrapped.check(cfg); err != nil {
			return nil, nil, err
		}
	}
	ours, readable, err := ourConfig(cfg)
	if err != nil {
		return nil, nil, err
	}
	if !readable {
		return d.startPlain(cfg)
	}
	byDefault := d.fromPolicies(cfg, &ours)
	if !ours.Declared() {
		return d.startPlain(cfg)
	}
	st := &start{d: d, cfg: cfg, ours: ours, byDefault: byDefault}
	err = steps.Run(d.ctx, st.steps()...)
	switch {
	case errors.Is(err, lifecycle.ErrNothingGranted):
		d.events.emit(cfg, fmt.Sprintf("Secrets: the task starts without them: %v", err))
		return d.startPlain(cfg)
	case byDefault && errors.Is(err, statedir.ErrUnusable):
		// The job has asked for nothing: what the operator's option would give it is no reason not to start.
		d.events.emit(cfg, fmt.Sprintf("Secrets: the task starts without what its policies grant: %v", err))
		return d.startPlain(cfg)
	case errors.Is(err, errNothingGranted):
		// Nobody asked for this task's secrets, and there are none: it is left as it is.
		return d.startPlain(cfg)
	}
	if err != nil {
		return nil, nil, startError(err)
	}
	p := st.t.currentProcess()
	return p.handle, p.network, nil
}

// ourConfig is our part of a task's config. One that cannot be read, or is not there at all, and has nothing of ours is the
// wrapped driver's to judge: readable is false.
func ourConfig(cfg *drivers.TaskConfig) (ours secrets.TaskConfig, readable bool, err error) {
	if err = cfg.DecodeDriverConfig(&ours); err == nil {
		return ours, true, nil
	}
	var all map[string]any
	if cfg.DecodeDriverConfig(&all) != nil || !hasOurs(all) {
		return secrets.TaskConfig{}, false, nil //nolint:nilerr // the wrapped driver says what is wrong
	}
	return ours, false, fmt.Errorf("read the task's config: %w", err)
}

// hasOurs reports whether a task's config says anything of ours: Nomad fills in what a job leaves out.
func hasOurs(config map[string]any) bool {
	for key := range taskKeys {
		switch value := config[key].(type) {
		case nil:
		case map[string]any:
			if len(value) > 0 {
				return true
			}
		case string:
			if value != "" {
				return true
			}
		case bool:
			if value {
				return true
			}
		default:
			return true
		}
	}
	return false
}

// errNothingGranted is of a task that declares nothing, and whose policies grant nothing.
var errNothingGranted = errors.New("no secret is declared, and the policies grant none")

// fromPolicies gives a job that says nothing of from_policies what the operator says, if the task has
// an identity whose policies can be asked for. byDefault is of a job that declares nothing: it would start as it is.
func (d *Driver) fromPolicies(cfg *drivers.TaskConfig, ours *secrets.TaskConfig) (byDefault bool) {
	d.mu.Lock()
	operators, identity := d.opts.fromPolicies, d.opts.lifecycle
	d.mu.Unlock()
	if ours.FromPolicies != "" || operators == "off" || !identity.HasIdentity(cfg.TaskDir().Dir, cfg.Env, ours.IdentityFile) {
		return false
	}
	byDefault = !ours.Declared()
	ours.FromPolicies, ours.ByOperator = operators, true
	if byDefault {
		ours.ExposeToken = true // a token that the job has and uses is not taken away for what it did not ask for
	}
	return byDefault
}

// vaultTokenEnv is where Nomad's vault block puts the task's token. A task never gets a token that
// it did not ask for.
const vaultTokenEnv = "VAULT_TOKEN"

// refuseSharedDir refuses secrets to a task that has no directory of its own, for its name leads to where
// others are: to its allocation's, or to that of all allocations. Nomad lets both through.
func refuseSharedDir(cfg *drivers.TaskConfig) error {
	switch cfg.Name {
	case ".", "..":
		return secrets.Errorf(secrets.Invalid, "a task named %q shares its directory with other tasks, which would see its secrets: give it another name", cfg.Name)
	}
	return nil
}

// lifecycleTask is a Nomad task as the lifecycle knows it.
func lifecycleTask(driver string, cfg *drivers.TaskConfig) lifecycle.Task {
	index, err := strconv.Atoi(cfg.Env["NOMAD_ALLOC_INDEX"])
	if err != nil {
		index = 0 // only the stagger within a group depends on it
	}
	return lifecycle.Task{
		Driver: driver, AllocID: cfg.AllocID, Name: cfg.Name, ID: cfg.ID,
		Namespace: cfg.Namespace, JobID: cfg.JobID, Group: cfg.TaskGroupName,
		AllocIndex: index, Dir: cfg.TaskDir().Dir, UID: jwtOwner(cfg.User),
	}
}

// jwtOwner is whom Nomad gives a task's JWT: the job's user where the host knows one of that name,
// which for a container it need not, else root.
func jwtOwner(name string) int {
	who, err := lookupOwner(name)
	if err != nil {
		return 0
	}
	return who.UID
}
