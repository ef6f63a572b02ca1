package live

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/mountinfo"
)

// A machine has the cgroups of version 1, of version 2, or both: each is here as files, for no machine has all.
func TestTheFileServersOwnCgroup(t *testing.T) {
	version1 := "12:cpuset:/agent\n4:cpuacct,cpu:/agent\n3:memory:/agent\n1:name=systemd:/agent\n"
	for name, c := range map[string]struct {
		own    string            // /proc/self/cgroup
		mounts map[string]string // below the top: what is mounted, and its type
		files  []string          // that the kernel would make in a new cgroup
		want   map[string]string
	}{
		"version 2": {
			own: "0::/system.slice/nomad.service\n", mounts: map[string]string{"": "cgroup2"},
			files: []string{"cgroup.procs", "cpu.weight"},
			want:  map[string]string{"cgroup.procs": "7", "cpu.weight": "2000"},
		},
		"version 2 without the controller": {
			own: "0::/agent\n", mounts: map[string]string{"": "cgroup2"},
			files: []string{"cgroup.procs"},
			want:  map[string]string{"cgroup.procs": "7"},
		},
		"version 1": {
			own:    version1,
			mounts: map[string]string{"cpu,cpuacct": "cgroup", "memory": "cgroup", "systemd": "cgroup", "cpuset": "cgroup", "net_cls": "cgroup", "other": "tmpfs"},
			files:  []string{"cpu,cpuacct/cgroup.procs", "cpu,cpuacct/cpu.shares", "memory/cgroup.procs", "systemd/cgroup.procs", "cpuset/cgroup.procs", "net_cls/cgroup.procs"},
			want: map[string]string{
				"cpu,cpuacct/cgroup.procs": "7", "cpu,cpuacct/cpu.shares": "20480", "memory/cgroup.procs": "7", "systemd/cgroup.procs": "7",
				"cpuset/cgroup.procs": "", "net_cls/cgroup.procs": "", // a cpuset limits nothing; in the other this process is not
			},
		},
		"both": {
			own: version1 + "0::/agent\n", mounts: map[string]string{"memory": "cgroup", "unified": "cgroup2"},
			files: []string{"memory/cgroup.procs", "unified/cgroup.procs"},
			want:  map[string]string{"memory/cgroup.procs": "7", "unified/cgroup.procs": "7"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			at := func(file string) string {
				dir, base := filepath.Split(file)
				return filepath.Join(top, dir, cgroupName, base)
			}
			for _, file := range c.files {
				must.NoError(t, os.MkdirAll(filepath.Dir(at(file)), 0o755))
				must.NoError(t, os.WriteFile(at(file), nil, 0o644))
			}
			var mounts []mountinfo.Mount
			for point, kind := range c.mounts {
				mounts = append(mounts, mountinfo.Mount{Point: filepath.Join(top, point), Type: kind})
			}
			must.NoError(t, joinOwnCgroup(hierarchies(mounts, c.own), 7))
			for file, want := range c.want {
				got, err := os.ReadFile(at(file))
				must.NoError(t, err)
				must.Eq(t, want, string(got), must.Sprint(file))
			}
		})
	}
	t.Run("not to be written", func(t *testing.T) {
		err := joinOwnCgroup([]string{t.TempDir()}, 7) // as a file system that is no cgroup's
		must.ErrorIs(t, err, os.ErrNotExist)
		must.True(t, strings.HasPrefix(err.Error(), "move the file server to its own cgroup: "))
	})
}
