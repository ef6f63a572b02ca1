package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// tick is the kernel's unit of processor time in /proc.
const tick = 10 * time.Millisecond

// Before each turn the machine is to be quiet, but a busy one is not waited for for ever: then others' load meets all alike.
const (
	quietShare = 0.15 // of all processors
	quietFor   = 300 * time.Millisecond
	quietBound = 5 * time.Second
)

// turns counts how many there were, and how many began on a machine that was not quiet.
var turns struct{ all, busy int }

// settle waits until the machine is quiet.
func settle(ctx context.Context) error {
	turns.all++
	for end := time.Now().Add(quietBound); time.Now().Before(end); {
		busy, all := machineTime()
		if err := pause(ctx, quietFor); err != nil {
			return err
		}
		if b, a := machineTime(); a > all && float64(b-busy) < quietShare*float64(a-all) {
			return nil
		}
	}
	turns.busy++
	return nil
}

// machineTime is the processor time of the machine since its start: what was used, and all there was.
func machineTime() (busy, all uint64) {
	stat, _ := os.ReadFile("/proc/stat")
	first, _, _ := strings.Cut(string(stat), "\n")
	for i, field := range strings.Fields(first)[1:] {
		n, _ := strconv.ParseUint(field, 10, 64)
		all += n
		if i != 3 && i != 4 { // idle, and waiting for disks
			busy += n
		}
	}
	return busy, all
}

// usage is processor time, by who used it.
type usage struct{ nomad, plugin, engine, vault time.Duration }

func (u usage) sum() time.Duration { return u.nomad + u.plugin + u.engine + u.vault }

// meter reads the processor time of the processes that take part in a start. The machine's other load is not in it.
type meter struct {
	dirs   []string // of the agents
	vault  string   // its directory
	groups map[string]string
}

func (p *pair) newMeter() *meter {
	return &meter{dirs: []string{filepath.Dir(p.ours.DataDir()), filepath.Dir(p.builtIn.DataDir())}, vault: filepath.Dir(p.Vault.AuditPath), groups: map[string]string{}}
}

// engines are the programs of Docker's engine.
var engines = []string{"dockerd", "containerd", "runc", "docker-proxy", "docker-init"}

// group is whom a process counts for; empty: nobody.
func (m *meter) group(dir string) string {
	comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
	for _, e := range engines {
		if strings.HasPrefix(string(comm), e) {
			return "engine"
		}
	}
	exe, _ := os.Readlink(filepath.Join(dir, "exe"))
	args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	env, _ := os.ReadFile(filepath.Join(dir, "environ"))
	all := exe + string(args) + string(env)
	for _, agent := range m.dirs {
		switch {
		case strings.HasPrefix(exe, filepath.Join(agent, "plugins")):
			return "plugin" // its executors and loggers, too
		case strings.Contains(all, agent+"/"):
			return "nomad"
		}
	}
	if strings.Contains(all, m.vault+"/") {
		return "vault"
	}
	return ""
}

// read is the processor time of each process, by its directory in /proc and its start. A process that has been waited for is in its
// parent's.
func (m *meter) read() map[string]time.Duration {
	used := map[string]time.Duration{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		id := dir + " " + fields[19]
		var ticks int64
		for _, f := range fields[11:15] { // user and system, its own and its children's
			n, _ := strconv.ParseInt(f, 10, 64)
			ticks += n
		}
		used[id] = time.Duration(ticks) * tick
		if _, known := m.groups[id]; !known {
			m.groups[id] = m.group(dir)
		}
	}
	return used
}

// since is what was used since a reading.
func (m *meter) since(before map[string]time.Duration) (u usage) {
	groups := map[string]*time.Duration{"nomad": &u.nomad, "plugin": &u.plugin, "engine": &u.engine, "vault": &u.vault}
	for id, now := range m.read() {
		if sum := groups[m.groups[id]]; sum != nil {
			*sum += now - before[id]
		}
	}
	return u
}

// residentOf is the memory of an agent's client and its drivers' plugins, without the helpers that belong to tasks.
func residentOf(agent *harness.Agent) (bytes uint64) {
	bytes = resident(agent.PID())
	for _, driver := range []string{"docker", "raw_exec"} {
		if pid, err := agent.PluginPID(driver); err == nil {
			bytes += resident(pid)
		}
	}
	return bytes
}

// resident is a process's memory.
func resident(pid int) uint64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for text := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(text, "VmRSS:"); ok {
			var kb uint64
			_, _ = fmt.Sscan(rest, &kb)
			return kb << 10
		}
	}
	return 0
}
