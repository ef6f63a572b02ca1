// Package running finds the file servers that run, for tests.
package running

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Servers are the file servers of a directory, and of those below it.
func Servers(dir string) (pids []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		line, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		args := strings.Split(string(line), "\x00")
		if len(args) > 2 && args[1] == "serve" && strings.HasPrefix(args[2]+"/", dir+"/") {
			if pid, err := strconv.Atoi(filepath.Base(p)); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Signal sends them a signal, and says how many there were.
func Signal(dir string, sig syscall.Signal) (sent int) {
	for _, pid := range Servers(dir) {
		if syscall.Kill(pid, sig) == nil {
			sent++
		}
	}
	return sent
}
