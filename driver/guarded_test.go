package driver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/drivers/rawexec"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/guard"
)

// guardedTask is a docker task in directories as Nomad makes them, with these options.
func guardedTask(t *testing.T, options map[string]any) (*drivers.TaskConfig, *guard.Pins) {
	t.Helper()
	allocDir := filepath.Join(t.TempDir(), "a")
	for _, dir := range []string{"alloc/logs", "alloc/data", "web/local", "web/secrets", "other/local"} {
		must.NoError(t, os.MkdirAll(filepath.Join(allocDir, dir), 0o777))
	}
	cfg := &drivers.TaskConfig{Name: "web", AllocDir: allocDir, Env: map[string]string{"NOMAD_ALLOC_DIR": "/alloc"}}
	options["image"] = "i"
	must.NoError(t, cfg.EncodeConcreteDriverConfig(options))
	pins, err := guard.NewPins(filepath.Join(t.TempDir(), "binds"))
	must.NoError(t, err)
	t.Cleanup(pins.Release)
	return cfg, pins
}

func bindBlock(source, target string, readOnly bool) map[string]any {
	return map[string]any{"type": "bind", "source": source, "target": target, "readonly": readOnly}
}

// What a container gets in the place of a job's binds: the same in the same places, and nothing that is not the
// allocation's (CVE-2026-14891); its logs read-only, by whichever way (CVE-2026-6959).
func TestGuardContainer(t *testing.T) {
	type mount struct {
		at       string // in the allocation's directory
		target   string
		readOnly bool
	}
	logs := mount{"alloc/logs", "/alloc/logs", true}
	tmpfs := map[string]any{"type": "tmpfs", "target": "/t"}
	for _, test := range []struct {
		name     string
		options  map[string]any
		volumes  bool
		want     []mount
		kept     docker.TaskConfig // what is left to the wrapped driver of volumes, mount and mounts
		refused  string
		unharmed bool // the config goes on as it was
		allocDir string
	}{
		{name: "no binds", options: map[string]any{}, want: []mount{logs}, unharmed: true},
		{name: "volumes", options: map[string]any{"volumes": []string{"local:/l", "../alloc/data:/d:ro", "local/new/dir:/n"}},
			want: []mount{logs, {"web/local", "/l", false}, {"alloc/data", "/d", true}, {"web/local/new/dir", "/n", false}}},
		{name: "mount and mounts", options: map[string]any{
			"mount": []any{bindBlock("local", "/l", true), tmpfs}, "mounts": []any{bindBlock("../other/local", "/o", false)}},
			want: []mount{logs, {"web/local", "/l", true}, {"other/local", "/o", false}},
			kept: docker.TaskConfig{Mounts: []docker.DockerMount{{Type: "tmpfs", Target: "/t"}}}},
		{name: "the logs' own directory", options: map[string]any{"volumes": []string{"../alloc/logs:/l"}},
			want: []mount{logs, {"alloc/logs", "/l", true}}},
		{name: "a directory with the logs in it", options: map[string]any{"volumes": []string{"../alloc:/x", "..:/y"}},
			want: []mount{logs, {"alloc", "/x", false}, {"alloc/logs", "/x/logs", true}, {".", "/y", true}}},
		{name: "directories in which root opens names", options: map[string]any{"volumes": []string{"..:/all", ".:/own", "../other:/other:rw", "../new:/new"}},
			want: []mount{logs, {".", "/all", true}, {"web", "/own", false}, {"other", "/other", true}, {"new", "/new", true}}},
		{name: "the same by mount and mounts", options: map[string]any{
			"mount": []any{bindBlock("..", "/all", false)}, "mounts": []any{bindBlock("../other", "/other", false)}},
			want: []mount{logs, {".", "/all", true}, {"other", "/other", true}}},
		{name: "the same through a symlink", options: map[string]any{"volumes": []string{"local/up:/other"}}, want: []mount{logs, {"other", "/other", true}}},
		{name: "a file beside them", options: map[string]any{"volumes": []string{"../hosts:/h"}}, want: []mount{logs, {"hosts", "/h", false}}},
		{name: "the job's own at the logs' place", options: map[string]any{"mount": []any{map[string]any{"type": "tmpfs", "target": "/alloc/logs/"}}},
			unharmed: true},
		{name: "a symlink out", options: map[string]any{"volumes": []string{"local/out:/x"}}, refused: "leads out of the allocation's directory"},
		{name: "below a symlink out", options: map[string]any{"mount": []any{bindBlock("local/out/hostname", "/x", true)}}, refused: "leads out"},
		{name: "a dangling symlink", options: map[string]any{"volumes": []string{"local/dangling:/x"}}, refused: "local/dangling"},
		{name: "a mount's source that is missing", options: map[string]any{"mount": []any{bindBlock("local/none", "/x", true)}}, refused: "no such file"},
		{name: "a symlink in", options: map[string]any{"volumes": []string{"local/in:/x"}}, want: []mount{logs, {"alloc/data", "/x", false}}},
		{name: "shared", options: map[string]any{"volumes": []string{"local:/x:rshared"}}, refused: "enabled = true"},
		{name: "left to the wrapped driver", options: map[string]any{"volumes": []string{"/etc:/x"}}, want: []mount{logs}, unharmed: true},
		{name: "a volume driver, left to it, too", options: map[string]any{"volumes": []string{"v:/x"}, "volume_driver": "d"}, want: []mount{logs}, unharmed: true},
		{name: "enabled", volumes: true, options: map[string]any{"volumes": []string{"local/out:/x"}}, want: []mount{logs}, unharmed: true},
		{name: "enabled, logs to write to", volumes: true, options: map[string]any{"volumes": []string{"../alloc/logs:/alloc/logs"}}, unharmed: true},
		{name: "enabled, logs to write to, with an option", volumes: true, options: map[string]any{"volumes": []string{"/x:/alloc/logs:rshared"}}, unharmed: true},
		// The wrapped driver would take what follows the colon for options of the bind.
		{name: "an allocation's directory of the job's own with options", options: map[string]any{}, allocDir: "/alloc:rw", refused: "has a colon"},
		{name: "a mode", options: map[string]any{"pid_mode": "host"}, refused: "pid_mode"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg, pins := guardedTask(t, test.options)
			if test.allocDir != "" {
				cfg.Env["NOMAD_ALLOC_DIR"] = test.allocDir
			}
			local := filepath.Join(cfg.AllocDir, "web", "local")
			must.NoError(t, os.Symlink("/etc", filepath.Join(local, "out")))
			must.NoError(t, os.Symlink("nowhere", filepath.Join(local, "dangling")))
			must.NoError(t, os.Symlink("../../alloc/data", filepath.Join(local, "in")))
			must.NoError(t, os.Symlink("../../other", filepath.Join(local, "up")))
			must.NoError(t, os.WriteFile(filepath.Join(cfg.AllocDir, "hosts"), nil, 0o644))
			var before, after docker.TaskConfig
			must.NoError(t, cfg.DecodeDriverConfig(&before))

			err := guardContainer(cfg, guardOptions{volumes: test.volumes}, pins, func() (int, int, error) { return 0, 0, nil })
			if test.refused != "" {
				must.ErrorContains(t, err, test.refused)
				return
			}
			must.NoError(t, err)
			must.Len(t, len(test.want), cfg.Mounts)
			for i, want := range test.want {
				got := cfg.Mounts[i]
				must.EqOp(t, want.target, got.TaskPath)
				must.Eq(t, want.readOnly, got.Readonly, must.Sprint(want.target))
				sameFile(t, filepath.Join(cfg.AllocDir, want.at), got.HostPath)
			}
			must.NoError(t, cfg.DecodeDriverConfig(&after))
			if !test.unharmed {
				before.Volumes, before.Mounts, before.MountsList = nil, test.kept.Mounts, nil
				if len(after.Mounts) == 0 {
					after.Mounts = nil
				}
				if len(after.MountsList) == 0 {
					after.MountsList = nil
				}
			}
			must.Eq(t, before, after)
		})
	}
}

// A seccomp profile is read from the file that was looked at, whatever is in its place by then, and never from what makes the reader wait.
func TestSeccompProfilesArePinned(t *testing.T) {
	dir := t.TempDir()
	profile, fifo := filepath.Join(dir, "profile.json"), filepath.Join(dir, "fifo")
	must.NoError(t, os.WriteFile(profile, []byte("{}"), 0o644))
	must.NoError(t, unix.Mkfifo(fifo, 0o644))
	guarded := func(opts ...string) ([]string, error) {
		cfg, pins := guardedTask(t, map[string]any{"security_opt": opts})
		if err := guardContainer(cfg, guardOptions{volumes: true}, pins, nil); err != nil {
			return nil, err
		}
		var after docker.TaskConfig
		must.NoError(t, cfg.DecodeDriverConfig(&after))
		return after.SecurityOpt, nil
	}
	for _, sep := range []string{"=", ":"} {
		opts, err := guarded("no-new-privileges", "seccomp"+sep+profile, "apparmor=unconfined", "seccomp"+sep+"unconfined")
		must.NoError(t, err)
		pinned, ok := strings.CutPrefix(opts[1], "seccomp=")
		must.True(t, ok)
		must.NotEq(t, profile, pinned)
		sameFile(t, profile, pinned)
		must.Eq(t, []string{"no-new-privileges", opts[1], "apparmor=unconfined", "seccomp" + sep + "unconfined"}, opts)
	}
	for _, waits := range []string{fifo, "/proc/kmsg", "/dev/zero", dir} {
		_, err := guarded("seccomp=" + waits)
		must.ErrorContains(t, err, waits+" is no regular file")
	}
	_, err := guarded("seccomp=" + filepath.Join(dir, "none"))
	must.ErrorIs(t, err, os.ErrNotExist)
}

func sameFile(t *testing.T, a, b string) {
	t.Helper()
	var sa, sb unix.Stat_t
	must.NoError(t, unix.Stat(a, &sa))
	must.NoError(t, unix.Stat(b, &sb))
	must.True(t, sa.Ino == sb.Ino && sa.Dev == sb.Dev, must.Sprintf("%s is not %s", a, b))
}

// A task without a directory, which Nomad never makes, is the wrapped driver's to judge.
func TestNoAllocDir(t *testing.T) {
	d := fakeTask(t, &fakeRunner{inner: newFakeInner()}).d
	cfg := &drivers.TaskConfig{ID: "t", Name: "web"}
	must.NoError(t, d.guardDirs(cfg, newLogPipes(cfg), guardOptions{}))
	cfg.AllocDir = t.TempDir()
	must.ErrorContains(t, d.guardDirs(cfg, newLogPipes(cfg), guardOptions{}), "the task's directory")
}

// Nomad keeps a handle, and gives it to the built-in driver if we are removed: our own paths are not in it.
func TestHandlesHaveTheTasksOwnPaths(t *testing.T) {
	own := &drivers.TaskConfig{ID: "a/b/c", StdoutPath: "/a/out", StderrPath: "/a/err", Mounts: []*drivers.MountConfig{{TaskPath: "/v"}}}
	ours := own.Copy()
	ours.StdoutPath, ours.StderrPath = "/run/x/0", "/run/x/1"
	ours.Mounts = append(ours.Mounts, &drivers.MountConfig{TaskPath: "/alloc/logs"})
	for _, raw := range []bool{true, false} {
		h := drivers.NewTaskHandle(1)
		h.Config = ours
		var state any = struct{ ContainerID string }{"id"}
		if raw {
			state = &rawexec.TaskState{TaskConfig: ours, Pid: 7}
		}
		must.NoError(t, h.SetDriverState(state))
		must.NoError(t, unguarded(h, own))
		must.Eq(t, own, h.Config)
		if !raw {
			id, err := containerID(h)
			must.NoError(t, err)
			must.EqOp(t, "id", id)
			continue
		}
		var got rawexec.TaskState
		must.NoError(t, h.GetDriverState(&got))
		must.EqOp(t, 7, got.Pid)
		must.EqOp(t, own.StdoutPath, got.TaskConfig.StdoutPath)
		must.EqOp(t, own.StderrPath, got.TaskConfig.StderrPath)
		must.Len(t, 1, got.TaskConfig.Mounts)
	}
	must.EqOp(t, "/run/x/0", ours.StdoutPath, must.Sprint("the wrapped driver's own was changed"))
}

func TestAllowedModes(t *testing.T) {
	for _, name := range []string{"docker", "docker-secrets"} {
		o, err := readOptions(t, name, `config {
			allowed_modes {
				pid = ["host"]
				ipc = ["container:*"]
			}
			volumes { enabled = true }
		}`)
		must.NoError(t, err)
		must.Eq(t, guard.Modes{PID: []string{"host"}, IPC: []string{"container:*"}}, o.guard.modes)
		must.True(t, o.guard.volumes)
		o, err = readOptions(t, name, `config { allow_privileged = true }`)
		must.NoError(t, err)
		must.True(t, o.guard.modes.Privileged)
		must.False(t, o.guard.volumes)
		_, err = readOptions(t, name, `config { allowed_modes { network = ["host"] } }`)
		must.ErrorContains(t, err, "network")
	}
	_, err := readOptions(t, "raw_exec", `config { allowed_modes { pid = ["host"] } }`)
	must.ErrorContains(t, err, "allowed_modes")
}

func TestMappedRoot(t *testing.T) {
	for _, test := range []struct {
		options  []string
		rootDir  string
		uid, gid int
	}{
		{[]string{"name=seccomp,profile=default"}, "/var/lib/docker", 0, 0},
		{[]string{"name=seccomp,profile=default", "name=userns"}, "/var/lib/docker/100000.200000", 100000, 200000},
		{[]string{"name=userns"}, "/var/lib/docker", 0, 0},
		{nil, "/var/lib/docker/100000.200000", 0, 0},
	} {
		uid, gid := mappedRoot(test.options, test.rootDir)
		must.EqOp(t, test.uid, uid)
		must.EqOp(t, test.gid, gid)
	}
}
