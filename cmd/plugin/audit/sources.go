package audit

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/leakscan"
)

// maxPlace is what of one file is looked at. A task can make a file as large as it likes.
const maxPlace = 256 << 20

// layers are the directories, of Docker's data and of containerd's, with what images and programs in containers wrote: no driver
// writes there, and they are most of a node's disk.
var layers = []string{
	"overlay2", "aufs", "btrfs", "devicemapper", "vfs", "zfs", "fuse-overlayfs", "rootfs", "volumes", "buildkit",
	"io.containerd.snapshotter.*", "io.containerd.content.*", "containerd/daemon/io.containerd.snapshotter.*", "containerd/daemon/io.containerd.content.*",
}

// valueFiles are the journal's files that hold values, by contract, and what they are written as.
var valueFiles = []string{"tokens.json", "values.json", ".tokens.json.tmp", ".values.json.tmp"}

// sources are all places to look at.
func (a *audit) sources() []leakscan.Source {
	tree := leakscan.TreeOptions{Mounts: leakscan.NoMounts, MaxFile: maxPlace}
	all := a.docker()
	all = append(all, leakscan.Tree("Nomad's data", a.config.DataDir, tree))
	if rel, err := filepath.Rel(a.config.DataDir, a.config.AllocDir); err != nil || strings.HasPrefix(rel, "..") {
		all = append(all, leakscan.Tree("Nomad's data", a.config.AllocDir, tree))
	}
	all = append(all, a.logs()...)
	for _, dir := range a.stateDirs() {
		if there := filepath.Join(dir, "journal"); exists(there) {
			all = append(all, leakscan.Tree("journal", there, leakscan.TreeOptions{Skip: valueFiles, MaxFile: maxPlace}))
		}
	}
	layered := tree
	if !a.all {
		layered.SkipDirs = layers
	}
	for _, dir := range []string{"/run/docker", "/var/lib/containerd", "/run/containerd"} {
		if exists(dir) {
			all = append(all, leakscan.Tree(dir, dir, layered))
		}
	}
	return append(all, leakscan.Processes("command lines and environments", handlers(a.agent)...))
}

// docker is what the engines tell of their containers, and their data. It also learns which tasks are containers.
func (a *audit) docker() (all []leakscan.Source) {
	seen := map[string]bool{}
	for _, name := range driver.Names() {
		s, ok := a.plugins[name]
		if !ok || !s.OfEngine {
			continue
		}
		engine, err := s.Engine()
		if err != nil {
			a.failed("Docker", err)
			continue
		}
		dir, err := engine.DataDir(a.ctx)
		if err == nil && !seen[dir] {
			seen[dir] = true
			err = engine.Inspect(a.ctx, func(container string, answer []byte) {
				a.isContainer(container, s.Wraps)
				all = append(all, leakscan.Text("docker inspect", container, answer))
			})
			opts := leakscan.TreeOptions{Mounts: leakscan.NoMounts, MaxFile: maxPlace}
			if !a.all {
				opts.SkipDirs = layers
			}
			all = append(all, leakscan.Tree("Docker's data", dir, opts))
		}
		_ = engine.Close()
		if _, configured := a.config.Plugin(name); err != nil && configured {
			a.failed("Docker", err)
		}
	}
	return all
}

// isContainer notes the task that a container is of, by the name that Nomad gives it, and the driver of that.
func (a *audit) isContainer(name, wraps string) {
	for key, t := range a.values.tasks {
		if !t.Plugin && name == strings.ReplaceAll(key.name, "/", "_")+"-"+key.alloc {
			t.Driver = wraps
		}
	}
}

// logs are the agent's own log files, if it has such: the one that is given, and those that it is rotated to.
func (a *audit) logs() (all []leakscan.Source) {
	if a.config.LogFile == "" {
		return nil
	}
	path := a.config.LogFile
	if strings.HasSuffix(path, "/") {
		path = filepath.Join(path, "nomad.log")
	}
	files, err := filepath.Glob(strings.TrimSuffix(path, filepath.Ext(path)) + "*")
	a.failed("logs", err)
	for _, f := range files {
		all = append(all, leakscan.Tree("Nomad's log", f, leakscan.TreeOptions{MaxFile: maxPlace}))
	}
	return all
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
