package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// healed waits until every task is as it should be: watched by a plugin that runs, one process, with
// credentials that work, and logs that go on.
func (m *crashMatrix) healed(ctx context.Context) error {
	fine := map[string]int{} // by task: the process that was found to be so
	var plugin int
	return harness.Until(ctx, "every task to be as it should", func() error {
		pid, err := m.Agent.PluginPID(m.driver)
		if err != nil {
			return err
		}
		if pid != plugin {
			plugin = pid
			clear(fine)
		}
		open := openFiles(pid)
		procs := readHostProcs()
		for _, task := range m.tasks {
			// The plugin holds the log pipes of the tasks that it watches.
			if fifo := "." + task.name + ".stdout.fifo"; !slices.ContainsFunc(open, func(path string) bool {
				return strings.Contains(path, task.alloc.ID) && strings.HasSuffix(path, fifo)
			}) {
				return fmt.Errorf("%s is not watched: its log pipe is not held open", task.name)
			}
			if task.kind == batchToken && fine[task.name] != 0 {
				continue // by now it may be between two processes again, and others with it
			}
			p, err := procs.theOneOf(task, m.driver)
			if err != nil {
				return err
			}
			if fine[task.name] == p.pid {
				continue
			}
			if err := m.serves(task, p); err != nil {
				return err
			}
			fine[task.name] = p.pid
		}
		return nil
	})
}

func (m *crashMatrix) serves(task *crashTask, p hostProc) error {
	user := p.env["DB_USER"]
	if !m.MariaDB.CanLogin(m.Ctx, user, p.env["DB_PASSWORD"]) {
		return fmt.Errorf("%s cannot log in as %q", task.name, user)
	}
	logged, err := task.alloc.Lines(task.name, "login user=")
	if err != nil {
		return err
	}
	if !slices.Contains(logged, user) {
		return fmt.Errorf("%s has not logged in as %s, by its logs", task.name, user)
	}
	state, err := task.alloc.State(m.Ctx, task.name)
	if err != nil {
		return err
	}
	if state.State != "running" {
		return fmt.Errorf("%s is %s to Nomad", task.name, state.State)
	}
	return nil
}

// strays waits until of the users that the database has now each is some task's, or gone. It returns
// how many were nobody's at first, less those that the server has lost.
func (m *crashMatrix) strays(ctx context.Context) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, strayBound)
	defer cancel()
	var suspects []string
	n = -1
	err = harness.Until(ctx, "no credential to be nobody's", func() error {
		there, err := m.MariaDB.Users(ctx)
		if err != nil {
			return err
		}
		if n < 0 {
			suspects = slices.DeleteFunc(slices.Clone(there), func(u string) bool { return !strings.Contains(u, "-"+m.mark) })
		}
		procs := readHostProcs()
		suspects = slices.DeleteFunc(suspects, func(u string) bool {
			return !slices.Contains(there, u) || slices.ContainsFunc(procs, func(p hostProc) bool { return p.env["DB_USER"] == u })
		})
		if n < 0 {
			n = len(suspects)
		}
		if len(suspects) > 0 {
			return fmt.Errorf("%s", suspects)
		}
		return nil
	})
	if err != nil && m.areLost(suspects) {
		return n - len(suspects), nil
	}
	return n, err
}

// areLost reports whether Vault itself has lost these users, and drops them. Where a client dies in the
// midst of a request, Vault 1.21 can have made the user and then not register the lease: its audit log says
// that the context was cancelled. Such a user has no lease, so nobody's revocation, and no TTL, ends it.
func (m *crashMatrix) areLost(users []string) bool {
	reads, err := m.Vault.Requests(0, m.mark+"/creds/")
	if err != nil {
		return false
	}
	lost := -m.lost
	for _, r := range reads {
		if strings.Contains(r.Error, context.Canceled.Error()) {
			lost++
		}
	}
	if len(users) > lost {
		return false
	}
	for _, user := range users {
		if err := m.MariaDB.Exec(m.Ctx, fmt.Sprintf("DROP USER '%s'@'%%'", user)); err != nil {
			return false
		}
	}
	m.lost += len(users)
	return true
}

// left says what is left of a task that has ended.
func (m *crashMatrix) left(task *crashTask) error {
	for _, p := range readHostProcs() {
		if p.env["NOMAD_ALLOC_ID"] == task.alloc.ID || strings.Contains(strings.Join(p.args, " "), task.alloc.ID) && !p.isLogmon() {
			return fmt.Errorf("process %d: %s", p.pid, p.args)
		}
	}
	if _, err := os.Lstat(filepath.Join(m.Agent.JournalDir(), m.driver, task.alloc.ID)); err == nil {
		return fmt.Errorf("its journal is there")
	}
	if m.driver == "docker" {
		if _, err := task.alloc.Container(m.Ctx, task.name); err == nil {
			return fmt.Errorf("its container is there")
		}
	}
	return nil
}

// hostProc is a process of the host.
type hostProc struct {
	pid  int
	args []string
	env  map[string]string
}

func (p hostProc) isLogmon() bool { return len(p.args) > 1 && p.args[1] == "logmon" }

type hostProcs []hostProc

func readHostProcs() hostProcs {
	var procs hostProcs
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(args) == 0 { // gone, a zombie, or the kernel's
			continue
		}
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		p := hostProc{args: strings.Split(strings.TrimRight(string(args), "\x00"), "\x00"), env: map[string]string{}}
		p.pid, _ = strconv.Atoi(filepath.Base(dir))
		for pair := range bytes.SplitSeq(env, []byte{0}) {
			name, value, _ := strings.Cut(string(pair), "=")
			p.env[name] = value
		}
		procs = append(procs, p)
	}
	return procs
}

// theOneOf is the task's process, if there is one, and no more.
func (procs hostProcs) theOneOf(task *crashTask, driver string) (found hostProc, err error) {
	var own, executors []int
	for _, p := range procs {
		switch {
		case p.env["NOMAD_ALLOC_ID"] == task.alloc.ID && filepath.Base(p.args[0]) == "testapp":
			own, found = append(own, p.pid), p
		case len(p.args) > 2 && p.args[1] == "executor" && strings.Contains(p.args[2], task.alloc.ID):
			executors = append(executors, p.pid)
		}
	}
	if len(own) != 1 || driver == "raw_exec" && len(executors) != 1 {
		return found, fmt.Errorf("%s has processes %v, and executors %v", task.name, own, executors)
	}
	return found, nil
}

func openFiles(pid int) []string {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	var paths []string
	for _, fd := range fds {
		if path, err := os.Readlink(fd); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}

// inodeChanged is when a file was last renamed, by the clock of its file system.
func inodeChanged(info fs.FileInfo) time.Time {
	c := info.Sys().(*syscall.Stat_t).Ctim
	return time.Unix(c.Sec, c.Nsec)
}
