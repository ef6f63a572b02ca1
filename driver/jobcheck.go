package driver

import (
	"errors"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What who checks a job must know of its drivers. Nothing is opened for it, and nothing asked.

// JobDriver is a driver as jobs name it.
type JobDriver struct{ wrapped *wrapped }

// ForJob is the driver of a name; false: none of ours has it.
func ForJob(name string) (JobDriver, bool) {
	w, ok := served[name]
	return JobDriver{w}, ok
}

// InContainer reports whether the driver's tasks have a file system of their own.
func (d JobDriver) InContainer() bool { return d.wrapped.inContainer }

// TaskSchema is what the driver takes in a task's config.
func (d JobDriver) TaskSchema() (*hclspec.Spec, error) {
	inner, err := d.wrapped.taskSchema()
	if err != nil {
		return nil, err
	}
	return extend(inner, taskKeys), nil
}

// Check is what a start refuses of a task before it asks a server: all of it, as Problems takes it apart. The
// Spec is nil for a task that declares nothing.
func (d JobDriver) Check(cfg *drivers.TaskConfig, ours secrets.TaskConfig) (spec *secrets.Spec, err error) {
	var errs []error
	if d.wrapped.check != nil {
		errs = append(errs, d.wrapped.check(cfg))
	}
	if ours.Declared() {
		spec, err = d.wrapped.compile(cfg, ours)
		errs = append(errs, err)
	}
	return spec, errors.Join(errs...)
}

// compile checks the job's configuration (S4, S5). Nothing has been asked of any server, and nothing touched.
func (w *wrapped) compile(cfg *drivers.TaskConfig, ours secrets.TaskConfig) (*secrets.Spec, error) {
	if err := refuseSharedDir(cfg); err != nil {
		return nil, err
	}
	spec, err := secrets.Compile(ours, providerNames()...)
	if err != nil {
		return nil, err
	}
	if err := spec.CheckLiveDirs(w.inContainer); err != nil {
		return spec, err
	}
	return spec, checkRegistryAuth(spec, w.inContainer, cfg)
}

// DefaultJWTFile is where a task's identity is looked for, unless the job or the plugin's options say otherwise.
func DefaultJWTFile() string { return defaultSecretsConfig().JWT.File }

// DefaultJWTMount is the auth method that a task's identity logs in at, unless the plugin's options say otherwise.
func DefaultJWTMount() string { return defaultSecretsConfig().JWT.Path }

// DefaultJWTRole is the role of a task that names none, unless the plugin's options say otherwise.
func DefaultJWTRole() string { return defaultSecretsConfig().JWT.Role }
