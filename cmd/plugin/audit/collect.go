package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/journal"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// ours is what is known of a task with secrets of this plugin.
type ours struct {
	config secrets.TaskConfig
	own    []string // names of the variables that the job itself sets
}

// collectJournals learns the tokens and leased values of the tasks that this plugin watches, and gives their configurations.
func (v *values) collectJournals(stateDir string) (map[taskKey]ours, error) {
	configs := map[taskKey]ours{}
	drivers, err := os.ReadDir(filepath.Join(stateDir, "journal"))
	if errors.Is(err, fs.ErrNotExist) {
		return configs, nil // no task has had secrets
	}
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, d := range drivers {
		dir := filepath.Join(stateDir, "journal", d.Name())
		tasks, err := journal.List(dir)
		errs = append(errs, err)
		for _, task := range tasks {
			j, err := journal.Open(dir, task)
			if errors.Is(err, journal.ErrNone) { // it has ended since
				continue
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			t := v.task(task.AllocID, task.Name)
			t.Driver, t.Plugin = d.Name(), true
			entry := j.Entry()
			configs[t.key()] = ours{entry.Config, entry.OwnEnv}
			errs = append(errs, v.addJournal(t, j))
		}
	}
	return configs, errors.Join(errs...)
}

func (v *values) addJournal(t *Task, j *journal.Journal) error {
	for _, token := range j.Tokens() {
		v.addSecret(t, "its token", token.Token.Value.Text())
	}
	kept, err := j.Values()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		for _, field := range kept[name].Names() {
			content, _ := kept[name].Lookup(field)
			v.addField(t, fmt.Sprintf("secret %q, field %q", name, field), content)
		}
	}
	return nil
}

func (v *values) addField(t *Task, what string, content any) {
	switch content := content.(type) {
	case string:
		v.addSecret(t, what, content)
	case json.Number:
		v.addSecret(t, what, content.String())
	case map[string]any:
		for _, member := range content {
			v.addField(t, what, member)
		}
	case []any:
		for _, member := range content {
			v.addField(t, what, member)
		}
	}
}

// maxEnviron bounds what is read of a process's environment: twice what Linux gives by default.
const maxEnviron = 4 << 20

// collectProcesses learns what this plugin put into the environment of its tasks, and which driver the others' tasks are of.
func (v *values) collectProcesses(configs map[taskKey]ours) error {
	paths, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return err
	}
	for _, path := range paths {
		vars := environ(path)
		t, ok := v.tasks[taskKey{vars["NOMAD_ALLOC_ID"], vars["NOMAD_TASK_NAME"]}]
		if !ok {
			continue
		}
		if config, ours := configs[t.key()]; ours {
			v.addEnv(t, config, vars)
		} else if t.Driver == "" {
			t.Driver = driverOf(filepath.Dir(path))
		}
	}
	return nil
}

// environ reads a process's environment; nothing of one that has ended.
func environ(path string) map[string]string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil || !bytes.Contains(content, []byte("NOMAD_ALLOC_ID=")) {
		return nil
	}
	vars := map[string]string{}
	for variable := range strings.SplitSeq(string(content), "\x00") {
		if name, text, ok := strings.Cut(variable, "="); ok {
			vars[name] = text
		}
	}
	return vars
}

// addEnv learns the variables that are a task's secrets: those that it declares, and where its policies grant it more all
// that neither the job nor the system sets.
func (v *values) addEnv(t *Task, of ours, vars map[string]string) {
	granted := of.config.FromPolicies == "env" || of.config.FromPolicies == "all"
	usual := []string{"PATH", "HOME", "HOSTNAME", "USER", "PWD", "SHLVL", "TERM", "LANG", "TZ"}
	for name, text := range vars {
		if of.sets(name) || granted && !slices.Contains(of.own, name) && !slices.Contains(usual, name) && !strings.HasPrefix(name, "NOMAD_") {
			v.add(t, "its variable "+name, text)
		}
	}
}

// sets reports whether a variable is one of a declared secret.
func (o ours) sets(name string) bool {
	for _, s := range o.config.Secrets {
		if s == nil {
			continue
		}
		for _, env := range s.Env {
			if _, ok := env[name]; ok {
				return true
			}
		}
		if s.EnvPrefix != nil && strings.HasPrefix(name, *s.EnvPrefix) && !slices.Contains(o.own, name) && !strings.HasPrefix(name, "NOMAD_") {
			return true
		}
	}
	return false
}

// driverOf guesses the driver of a task that is no container by its process: raw_exec leaves it the host's file system.
func driverOf(proc string) string {
	var root, its unix.Stat_t
	if unix.Stat("/proc/self/root", &root) != nil || unix.Stat(proc+"/root", &its) != nil {
		return ""
	}
	if root.Dev == its.Dev && root.Ino == its.Ino {
		return "raw_exec"
	}
	return "exec or java"
}

// handlers are the processes that handle tasks without being their programs: the agent and what it started, Docker and its shims.
func handlers(agent int) []int {
	paths, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var pids []int
	for _, dir := range paths {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		exe, err := os.Readlink(dir + "/exe")
		if err != nil {
			continue // a kernel thread, or it has ended
		}
		base := filepath.Base(exe)
		docker := base == "dockerd" || strings.HasPrefix(base, "containerd")
		if docker || agent > 0 && (pid == agent || parentOf(dir) == agent) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func parentOf(dir string) int {
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "\nPPid:")
	line, _, _ := strings.Cut(rest, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return 0
	}
	return pid
}
