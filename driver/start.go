package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hashicorp/nomad/nomad/structs"
	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/crashpoint"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// StartTask starts a task: one without secrets is the inner driver's alone.
func (d *Driver) StartTask(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	if err := d.refuseMounts(cfg); err != nil {
		return nil, nil, err
	}
	var ours secrets.TaskConfig
	if err := cfg.DecodeDriverConfig(&ours); err != nil {
		return nil, nil, fmt.Errorf("read the task's config: %w", err)
	}
	byDefault, err := d.fromPolicies(cfg, &ours)
	if err != nil {
		return nil, nil, d.startError(err)
	}
	if !ours.Declared() {
		return d.inner.StartTask(cfg)
	}
	handle, network, err := d.startWithSecrets(cfg, ours, byDefault)
	if errors.Is(err, errNothingGranted) {
		// Nobody asked for this task's secrets, and there are none: it is left as it is.
		d.events.say(cfg, "Secrets: the policies of the task's token grant none")
		return d.inner.StartTask(cfg)
	}
	if err != nil {
		return nil, nil, d.startError(err)
	}
	return handle, network, nil
}

// errNothingGranted is of a task that declares nothing, and whose policies grant nothing.
var errNothingGranted = errors.New("no secret is declared, and the policies grant none")

// fromPolicies gives a job that says nothing of from_policies what the operator says, if the task has
// an identity whose policies can be asked for.
func (d *Driver) fromPolicies(cfg *drivers.TaskConfig, ours *secrets.TaskConfig) (byDefault bool, err error) {
	d.mu.Lock()
	operators := d.opts.fromPolicies
	d.mu.Unlock()
	if ours.FromPolicies != "" || operators == "off" {
		return false, nil
	}
	keeper, err := d.keep()
	if err != nil || !keeper.HasIdentity(cfg.TaskDir().Dir, cfg.Env, ours.IdentityFile) {
		return false, err
	}
	byDefault = !ours.Declared()
	ours.FromPolicies = operators
	return byDefault, nil
}

// startWithSecrets is the start of DESIGN 6, each step with its undo.
func (d *Driver) startWithSecrets(cfg *drivers.TaskConfig, ours secrets.TaskConfig, byDefault bool) (_ *drivers.TaskHandle, _ *drivers.DriverNetwork, err error) {
	if err := refuseSharedDir(cfg); err != nil {
		return nil, nil, err
	}
	spec, err := secrets.Compile(ours)
	if err != nil {
		return nil, nil, err
	}
	keeper, err := d.keep()
	if err != nil {
		return nil, nil, err
	}
	t, err := d.newTask(cfg, spec.ExposeToken)
	if err != nil {
		return nil, nil, err
	}

	defer func() {
		if err != nil {
			t.logs.release()
		}
	}()

	// What an earlier start of this task left: its process first, then the leases it used. With that
	// process goes the last who writes to the log pipes, and Nomad has begun to read them: it would stop.
	if err := t.runner.reap(d.ctx, cfg, t.holdLogs); err != nil {
		return nil, nil, fmt.Errorf("remove what an earlier start of this task left: %w", err)
	}
	if err := keeper.Abandon(lifecycleTask(d.name, cfg)); err != nil {
		return nil, nil, fmt.Errorf("end an earlier start of this task: %w", err)
	}
	crashpoint.Reached(crashpoint.Reaped, cfg.Name)
	if err := secrets.HardenPrivate(cfg.TaskDir().Dir); err != nil {
		return nil, nil, err
	}
	if err := ensureTmpfs(cfg); err != nil {
		return nil, nil, err
	}
	if t.files, err = secrets.OpenPublisher(cfg.TaskDir().SecretsDir); err != nil {
		return nil, nil, err
	}

	notes, err := notes{}.encode(t.cfg, t.options)
	if err != nil {
		return nil, nil, err
	}
	t.session, err = keeper.Open(d.ctx, lifecycle.Start{
		Task: lifecycleTask(d.name, cfg), Spec: spec, Config: ours, Env: cfg.Env, Driver: notes,
	}, t)
	if err != nil {
		return nil, nil, errors.Join(err, t.removeFiles())
	}
	if byDefault && len(t.session.Spec().Secrets) == 0 {
		t.session.End()
		return nil, nil, errors.Join(errNothingGranted, t.removeFiles())
	}
	if err := t.begin(d.ctx); err != nil {
		t.session.End()
		return nil, nil, errors.Join(err, t.removeFiles())
	}
	d.tasks.add(t)
	t.session.Watch()
	crashpoint.Reached(crashpoint.Watching, cfg.Name)
	p := t.currentProcess()
	return p.handle, p.network, nil
}

// newTask is a task that has no process and no secrets yet.
func (d *Driver) newTask(cfg *drivers.TaskConfig, exposeToken bool) (*task, error) {
	t := &task{
		d: d, cfg: cfg.Copy(), logs: newLogPipes(cfg),
		ended: make(chan struct{}), idle: make(chan struct{}),
	}
	if err := cfg.DecodeDriverConfig(&t.options); err != nil {
		return nil, fmt.Errorf("read the task's config: %w", err)
	}
	if !exposeToken {
		delete(t.cfg.Env, vaultTokenEnv)
	}
	var err error
	t.runner, err = d.newRunner(exposeToken)
	return t, err
}

// vaultTokenEnv is where Nomad's vault block puts the task's token. A task never gets a token that
// it did not ask for (DESIGN 5).
const vaultTokenEnv = "VAULT_TOKEN"

func (d *Driver) newRunner(exposeToken bool) (runner, error) {
	if d.wrapped.name == wrappedDocker.name {
		return d.newContainers(exposeToken)
	}
	return &processes{inner: d.inner}, nil
}

// refuseMounts is raw_exec's own refusal of volume mounts. Nomad makes it for the built-in, but
// does not ask a plugin (DESIGN 9).
func (d *Driver) refuseMounts(cfg *drivers.TaskConfig) error {
	if d.wrapped.name == wrappedRawExec.name && len(cfg.Mounts) > 0 {
		return fmt.Errorf("the task asks for a mount at %s, and the %s driver has none: remove the volume_mount block", cfg.Mounts[0].TaskPath, d.name)
	}
	return nil
}

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
// block (S2), and a container's end before its program ran, as is every end after that. The recoverable
// error must be the outermost; an inner driver's own is kept as it is.
func (d *Driver) startError(err error) error {
	var recoverable *structs.RecoverableError
	if errors.As(err, &recoverable) {
		return structs.NewRecoverableError(err, recoverable.Recoverable)
	}
	if secrets.KindOf(err) == secrets.Outage || errors.Is(err, launcher.ErrEnded) || errors.Is(err, launcher.ErrTimeout) {
		return structs.NewRecoverableError(err, true)
	}
	return err
}

// lifecycleTask is a Nomad task in the words of the lifecycle.
func lifecycleTask(driver string, cfg *drivers.TaskConfig) lifecycle.Task {
	index, err := strconv.Atoi(cfg.Env["NOMAD_ALLOC_INDEX"])
	if err != nil {
		index = 0 // only the stagger within a group depends on it
	}
	return lifecycle.Task{
		Driver: driver, AllocID: cfg.AllocID, Name: cfg.Name, ID: cfg.ID,
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

// innerConfig is the config for one inner StartTask: the task's, with its own env and options.
func (t *task) innerConfig(env map[string]string, options map[string]any) (*drivers.TaskConfig, error) {
	cfg := t.cfg.Copy()
	cfg.Env = withEnv(cfg.Env, env)
	if err := cfg.EncodeConcreteDriverConfig(options); err != nil {
		return nil, fmt.Errorf("write the wrapped driver's config: %w", err)
	}
	return cfg, nil
}

// secretsFileExists reports whether a file is in the task's secrets directory.
func secretsFileExists(cfg *drivers.TaskConfig, name string) bool {
	_, err := os.Lstat(filepath.Join(cfg.TaskDir().SecretsDir, name))
	return err == nil
}
