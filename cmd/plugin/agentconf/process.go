package agentconf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/nomadversion"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/proc"
)

// Agent is a Nomad agent that runs on this machine.
type Agent struct {
	PID     int
	Version string
	UID     int
	// CanMount is whether it may mount file systems (CAP_SYS_ADMIN).
	CanMount bool
	// VaultAddr is VAULT_ADDR in its environment.
	VaultAddr string
	// Paths are what it was given as -config, and DataDir and PluginDir what its command line has over those.
	Paths              []string
	DataDir, PluginDir string
	Dev                bool
}

// Agents are the agents that run. Others' processes that cannot be looked at are none.
func Agents(ctx context.Context) []Agent {
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil // the pattern is right
	}
	var agents []Agent
	for _, path := range cmdlines {
		content, err := os.ReadFile(path)
		args := strings.Split(string(bytes.TrimRight(content, "\x00")), "\x00")
		if err != nil || len(args) < 2 || args[1] != "agent" {
			continue
		}
		dir := filepath.Dir(path)
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		version := nomadversion.OfAgent(ctx, pid)
		if version == "" {
			continue
		}
		a := parseArgs(args[2:])
		a.PID, a.Version = pid, version
		a.readProc(dir)
		agents = append(agents, a)
	}
	return agents
}

// parseArgs reads an agent's command line. Each option may have one dash or two, and its value as an argument of its own.
func parseArgs(args []string) (a Agent) {
	for i := 0; i < len(args); i++ {
		name, value, given := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if !strings.HasPrefix(args[i], "-") {
			continue
		}
		if name == "dev" {
			a.Dev = true
			continue
		}
		if !slices.Contains([]string{"config", "data-dir", "plugin-dir"}, name) {
			continue
		}
		if !given && i+1 < len(args) {
			i++
			value = args[i]
		}
		switch name {
		case "config":
			a.Paths = append(a.Paths, value)
		case "data-dir":
			a.DataDir = value
		case "plugin-dir":
			a.PluginDir = value
		}
	}
	return a
}

// readProc fills in what the kernel tells of the process. What it does not tell stays empty.
func (a *Agent) readProc(dir string) {
	if cwd, err := os.Readlink(dir + "/cwd"); err == nil {
		for i, path := range a.Paths {
			if !filepath.IsAbs(path) {
				a.Paths[i] = filepath.Join(cwd, path)
			}
		}
	}
	if environ, err := os.ReadFile(dir + "/environ"); err == nil {
		for variable := range strings.SplitSeq(string(environ), "\x00") {
			if value, ok := strings.CutPrefix(variable, "VAULT_ADDR="); ok {
				a.VaultAddr = value
			}
		}
	}
	a.UID, a.CanMount = Rights(a.PID)
}

// Rights are a process's user, and whether it may mount. The user is -1 if that is not known.
func Rights(pid int) (uid int, canMount bool) {
	st, err := proc.ReadStatus(pid)
	if err != nil {
		return -1, false
	}
	return st.Users[1], st.Capabilities&(1<<unix.CAP_SYS_ADMIN) != 0 // the effective one
}

// errWhich is of a machine on which it is not clear which agent is meant.
var errWhich = errors.New("give -config, as the agent's")

// Find gives the configuration that is meant, and the agent that runs with it, if one does. Without paths it is that of the one client
// that runs, or else DefaultDir.
func Find(ctx context.Context, paths []string) (Config, *Agent, error) {
	agents := Agents(ctx)
	if len(paths) > 0 {
		c, err := Load(paths...)
		for _, a := range agents {
			if samePaths(a.Paths, paths) {
				c.Override(a.DataDir, a.PluginDir)
				return c, &a, err
			}
		}
		return c, nil, err
	}
	var found *Agent
	var config Config
	for _, a := range agents {
		c, err := Load(a.Paths...)
		c.Override(a.DataDir, a.PluginDir)
		if err != nil {
			return c, &a, err
		}
		if !c.Client && !a.Dev {
			continue
		}
		if found != nil {
			return Config{}, nil, fmt.Errorf("several Nomad clients run here (processes %d and %d): %w", found.PID, a.PID, errWhich)
		}
		found, config = &a, c
	}
	if found != nil {
		return config, found, nil
	}
	if _, err := os.Stat(DefaultDir); err != nil {
		return Config{}, nil, fmt.Errorf("no Nomad client runs here, and there is no %s: %w", DefaultDir, errWhich)
	}
	c, err := Load(DefaultDir)
	return c, nil, err
}

// samePaths reports whether each path is one of an agent's.
func samePaths(of, paths []string) bool {
	for _, path := range paths {
		same := func(other string) bool {
			a, errA := os.Stat(path)
			b, errB := os.Stat(other)
			return errA == nil && errB == nil && os.SameFile(a, b)
		}
		if !slices.ContainsFunc(of, same) {
			return false
		}
	}
	return true
}
