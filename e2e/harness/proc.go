package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// process is one running server, logging to a file. A server that is started again gets a new
// process and goes on in the same log.
type process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has been waited for
	err  error         // how it ended; valid once done is closed
}

// startProcess starts path with its output appended to logFile. The process is in a group of its
// own, so that a Ctrl-C at the terminal reaches only us, and it is killed when we die.
func startProcess(name, logFile string, env []string, path string, args ...string) (*process, error) {
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := startOnLastingThread(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, log: logFile, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// alive is nil while the process runs, and an error that ends any Until when it does not.
func (p *process) alive() error {
	if p == nil {
		return never(errors.New("not started"))
	}
	select {
	case <-p.done:
		return never(fmt.Errorf("%s ended by itself (%w); the end of %s:\n%s", p.name, p.err, p.log, tail(p.log, 20)))
	default:
		return nil
	}
}

// stop asks with sig, kills after grace, and returns when the process is gone.
func (p *process) stop(sig syscall.Signal, grace time.Duration) {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(grace):
		p.kill()
	}
}

func (p *process) kill() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// Pdeathsig fires when the *thread* that made the child ends, so all children are made by one
// goroutine that keeps its thread for as long as the program runs.
var spawner struct {
	once sync.Once
	work chan func()
}

func startOnLastingThread(cmd *exec.Cmd) error {
	spawner.once.Do(func() {
		spawner.work = make(chan func())
		go func() {
			runtime.LockOSThread()
			for f := range spawner.work {
				f()
			}
		}()
	})
	result := make(chan error)
	spawner.work <- func() { result <- cmd.Start() }
	return <-result
}

// MemoryInUse is what this process's heap and stacks take.
func MemoryInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
