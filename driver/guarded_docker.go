package driver

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/client/taskenv"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/guard"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/launcher"
)

// What a container gets is made safe here: namespaces of the host's, binds, the allocation's logs.

// allowedModesBlock is the docker driver's own of Nomad 2.0.4.
var allowedModesBlock = hclspec.NewBlock("allowed_modes", false, hclspec.NewObject(map[string]*hclspec.Spec{
	"pid":    hclspec.NewAttr("pid", "list(string)", false),
	"ipc":    hclspec.NewAttr("ipc", "list(string)", false),
	"uts":    hclspec.NewAttr("uts", "list(string)", false),
	"userns": hclspec.NewAttr("userns", "list(string)", false),
}))

// guardContainerStart pins what a container binds, for the moment in which the engine takes it.
func guardContainerStart(d *Driver, cfg *drivers.TaskConfig, o guardOptions) (release func(), err error) {
	pins, err := guard.NewPins(o.pins)
	if err != nil {
		return nil, fmt.Errorf("prepare the container's bind mounts: %w", err)
	}
	if err := guardContainer(cfg, o, pins, d.engineRoot); err != nil {
		pins.Release()
		return nil, err
	}
	return pins.Release, nil // the container has its own by then
}

// guardContainer makes safe what a container is to have.
func guardContainer(cfg *drivers.TaskConfig, o guardOptions, pins *guard.Pins, root guard.Owner) error {
	var job docker.TaskConfig
	if cfg.DecodeDriverConfig(&job) != nil {
		return nil //nolint:nilerr // the wrapped driver reads it in the same way, and refuses it in its own words
	}
	if err := o.modes.Check(guard.Wanted{PID: job.PidMode, IPC: job.IPCMode, UTS: job.UTSMode, Userns: job.UsernsMode}); err != nil {
		return err
	}
	if err := logsReadOnly(cfg, &job, pins); err != nil {
		return err
	}
	if err := pinSeccomp(cfg, &job, pins); err != nil {
		return err
	}
	if o.volumes || job.VolumeDriver != "" { // a volume driver the wrapped driver refuses by itself
		return nil
	}
	return pinBinds(cfg, &job, o.selinuxLabel, pins, root)
}

// pinSeccomp has the wrapped driver read seccomp profiles from what their files are now. It reads them once it has the image, and
// would wait for ever at a FIFO, while other starts wait for the image.
func pinSeccomp(cfg *drivers.TaskConfig, job *docker.TaskConfig, pins *guard.Pins) error {
	pinned := slices.Clone(job.SecurityOpt)
	for i, option := range job.SecurityOpt {
		profile := seccompProfile(option)
		if profile == "" {
			continue
		}
		file, err := guard.OpenRegular(profile)
		if err != nil {
			return fmt.Errorf("security_opt %q: %w", option, err)
		}
		at, err := pins.Add(file)
		_ = file.Close()
		if err != nil {
			return err
		}
		pinned[i] = "seccomp=" + at
	}
	if slices.Equal(pinned, job.SecurityOpt) {
		return nil
	}
	return changeOptions(cfg, func(options map[string]any) { options["security_opt"] = pinned })
}

// seccompProfile is the path of a profile that a security option names, as the wrapped driver reads it (parseSecurityOpts).
func seccompProfile(option string) string {
	key, value, ok := strings.Cut(option, "=")
	if !ok {
		key, value, _ = strings.Cut(option, ":")
	}
	if key != "seccomp" || value == "unconfined" {
		return ""
	}
	return value
}

// logsReadOnly binds alloc/logs over itself, read-only, unless the job binds something there itself.
func logsReadOnly(cfg *drivers.TaskConfig, job *docker.TaskConfig, pins *guard.Pins) error {
	allocDir := cfg.Env[taskenv.AllocDir]
	if allocDir == "" {
		allocDir = "/alloc"
	}
	if strings.Contains(allocDir, ":") {
		// To the wrapped driver it is the end of a bind's text: what follows would be options, and the logs not there.
		return fmt.Errorf("%s = %q has a colon in it; it is a path in the container", taskenv.AllocDir, allocDir)
	}
	target := path.Join(allocDir, "logs")
	if bindsAt(cfg, job, target) {
		return nil
	}
	dir, err := guard.LogDir(cfg.AllocDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	source, err := pins.Add(dir)
	if err != nil {
		return err
	}
	cfg.Mounts = append(cfg.Mounts, &drivers.MountConfig{HostPath: source, TaskPath: target, Readonly: true})
	return nil
}

func bindsAt(cfg *drivers.TaskConfig, job *docker.TaskConfig, target string) bool {
	for _, spec := range job.Volumes {
		if parts := strings.Split(spec, ":"); len(parts) > 1 && guard.SameTarget(parts[1], target) {
			return true
		}
	}
	for _, m := range slices.Concat(job.Mounts, job.MountsList) {
		if guard.SameTarget(m.Target, target) {
			return true
		}
	}
	return slices.ContainsFunc(cfg.Mounts, func(m *drivers.MountConfig) bool { return guard.SameTarget(m.TaskPath, target) })
}

// pinBinds gives the Docker engine what the job's binds mean now, in the place of their paths. What the wrapped
// driver refuses by itself is left to it.
func pinBinds(cfg *drivers.TaskConfig, job *docker.TaskConfig, label string, pins *guard.Pins, root guard.Owner) error {
	taskDir := cfg.TaskDir().Dir
	var binds []guard.Bind
	for _, spec := range job.Volumes {
		b, err := guard.Volume(taskDir, spec, label)
		if err != nil {
			return err
		}
		binds = append(binds, b)
	}
	for _, m := range slices.Concat(job.Mounts, job.MountsList) {
		if m.Type != "bind" {
			continue
		}
		b, err := guard.Mount(taskDir, m.Source, m.Target, m.ReadOnly, m.BindOptions.Propagation)
		if err != nil {
			return err
		}
		binds = append(binds, b)
	}
	if len(binds) == 0 || slices.ContainsFunc(binds, func(b guard.Bind) bool { return b.Leaves(cfg.AllocDir) }) {
		return nil
	}
	for _, b := range binds {
		maker := root
		if !b.Create {
			maker = nil
		}
		mounts, err := pinBind(cfg, b, pins, maker)
		if err != nil {
			return err
		}
		cfg.Mounts = append(cfg.Mounts, mounts...)
	}
	return withoutBinds(cfg)
}

// pinBind is what a bind becomes: its source pinned, and the allocation's logs in it read-only. So is all of it where root
// opens names.
func pinBind(cfg *drivers.TaskConfig, b guard.Bind, pins *guard.Pins, maker guard.Owner) ([]*drivers.MountConfig, error) {
	source, err := guard.Resolve(cfg.AllocDir, b.Source, maker)
	if errors.Is(err, guard.ErrOutside) {
		return nil, fmt.Errorf("volumes are not enabled; bind %s at %s: %w (the operator can allow it with volumes { enabled = true })", b.Source, b.Target, err)
	}
	if err != nil {
		return nil, fmt.Errorf("bind %s at %s: %w", b.Source, b.Target, err)
	}
	defer source.File.Close()
	pinned, err := pins.Add(source.File)
	if err != nil {
		return nil, err
	}
	if b.Relabel {
		if err := launcher.LetIn(pinned); err != nil {
			return nil, err
		}
	}
	if source.RootOpens(cfg.TaskDir().Dir) {
		if err := guard.ReadOnly(pinned); err != nil && !(b.ReadOnly && errors.Is(err, unix.ENOSYS)) {
			return nil, fmt.Errorf("bind %s at %s: %w", b.Source, b.Target, err)
		}
		// Without propagation: a mount that came later could be written to.
		return []*drivers.MountConfig{{HostPath: pinned, TaskPath: b.Target, Readonly: true}}, nil
	}
	all, below := guard.Logs(cfg.AllocDir, source.Rel)
	mounts := []*drivers.MountConfig{{HostPath: pinned, TaskPath: b.Target, Readonly: b.ReadOnly || all, PropagationMode: b.Propagation}}
	if below == "" || b.ReadOnly {
		return mounts, nil
	}
	dir, err := guard.LogDir(cfg.AllocDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if pinned, err = pins.Add(dir); err != nil {
		return nil, err
	}
	return append(mounts, &drivers.MountConfig{HostPath: pinned, TaskPath: path.Join(b.Target, below), Readonly: true}), nil
}

// engineRoot is whom the Docker engine gives what it makes: root, or what it maps containers' root to.
func (d *Driver) engineRoot() (uid, gid int, err error) {
	d.mu.Lock()
	endpoint := d.opts.docker
	d.mu.Unlock()
	client, err := endpoint.client()
	if err != nil {
		return 0, 0, err
	}
	defer client.Close()
	info, err := client.Info(d.ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("ask the Docker engine for its users: %w", err)
	}
	uid, gid = mappedRoot(info.SecurityOptions, info.DockerRootDir)
	return uid, gid, nil
}

// mappedRoot reads the engine's userns-remap: it is the name of the engine's own directory.
func mappedRoot(securityOptions []string, rootDir string) (uid, gid int) {
	if !slices.Contains(securityOptions, "name=userns") {
		return 0, 0
	}
	if n, err := fmt.Sscanf(path.Base(rootDir), "%d.%d", &uid, &gid); n != 2 || err != nil {
		return 0, 0
	}
	return uid, gid
}

// withoutBinds takes out of a job's config what is pinned.
func withoutBinds(cfg *drivers.TaskConfig) error {
	return changeOptions(cfg, func(options map[string]any) {
		delete(options, "volumes")
		for _, key := range []string{"mount", "mounts"} {
			list, _ := options[key].([]any)
			options[key] = slices.DeleteFunc(list, func(m any) bool {
				attrs, _ := m.(map[string]any)
				return attrs["type"] == "bind"
			})
		}
	})
}

// changeOptions changes a job's config for the wrapped driver.
func changeOptions(cfg *drivers.TaskConfig, change func(options map[string]any)) error {
	var options map[string]any
	if err := cfg.DecodeDriverConfig(&options); err != nil {
		return fmt.Errorf("read the task's config: %w", err)
	}
	change(options)
	if err := cfg.EncodeConcreteDriverConfig(options); err != nil {
		return fmt.Errorf("write the wrapped driver's config: %w", err)
	}
	return nil
}
