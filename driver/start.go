package driver

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
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
	var ours secrets.TaskConfig
	if err := cfg.DecodeDriverConfig(&ours); err != nil {
		return nil, nil, fmt.Errorf("read the task's config: %w", err)
	}
	byDefault := d.fromPolicies(cfg, &ours)
	if !ours.Declared() {
		return d.startPlain(cfg)
	}
	st := &start{d: d, cfg: cfg, ours: ours, byDefault: byDefault}
	err := steps.Run(d.ctx, st.steps()...)
	switch {
	case errors.Is(err, lifecycle.ErrNothingGranted):
		d.events.say(cfg, fmt.Sprintf("Secrets: the task starts without them: %v", err))
		return d.startPlain(cfg)
	case byDefault && errors.Is(err, statedir.ErrUnusable):
		// The job has asked for nothing: what the operator's option would give it is no reason not to start.
		d.events.say(cfg, fmt.Sprintf("Secrets: the task starts without what its policies grant: %v", err))
		return d.startPlain(cfg)
	case errors.Is(err, errNothingGranted):
		// Nobody asked for this task's secrets, and there are none: it is left as it is.
		return d.startPlain(cfg)
	}
	if err != nil {
		return nil, nil, d.startError(err)
	}
	p := st.t.currentProcess()
	return p.handle, p.network, nil
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

// startError makes an outage recoverable, so that Nomad tries again within the job's restart
// block (S2), and a container's end before its program ran, as is every end after that, and a state
// directory that cannot be used, which an operator may repair. The recoverable error must be the outermost; an
// inner driver's own is kept as it is.
//
// Nomad makes an event of it, which it keeps in its Raft log: so it is kept short (S8).
func (d *Driver) startError(err error) error {
	err = secrets.ShortError(err)
	var recoverable *structs.RecoverableError
	if errors.As(err, &recoverable) {
		return structs.NewRecoverableError(err, recoverable.Recoverable)
	}
	if secrets.KindOf(err) == secrets.Outage || errors.Is(err, launcher.ErrEnded) || errors.Is(err, launcher.ErrTimeout) ||
		errors.Is(err, launcher.ErrNoRoom) || errors.Is(err, errNoFileServer) || errors.Is(err, statedir.ErrUnusable) {
		return structs.NewRecoverableError(err, true)
	}
	return retryable(err)
}

// lifecycleTask is a Nomad task in the words of the lifecycle.
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
