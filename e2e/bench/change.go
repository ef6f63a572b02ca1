package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/e2e/harness"
)

// lived is a task whose processes are followed.
type lived struct {
	*harness.Alloc
	driver string
	lives  int // processes seen so far
}

// follow follows the one task of a job.
func follow(ctx context.Context, r *running, driver string) (*lived, error) {
	alloc, err := r.alloc(ctx)
	if err != nil {
		return nil, err
	}
	l := &lived{Alloc: alloc, driver: driver}
	_, err = l.next(ctx)
	return l, err
}

func followBoth(ctx context.Context, jobs both, driver string) (map[variant]*lived, error) {
	tasks := map[variant]*lived{}
	var errs []error
	for v, r := range jobs {
		l, err := follow(ctx, r, driver)
		tasks[v], errs = l, append(errs, err)
	}
	return tasks, errors.Join(errs...)
}

// next waits for the next process, and is when its program ran.
func (l *lived) next(ctx context.Context) (time.Time, error) {
	l.lives++
	lines, err := l.WaitLines(ctx, task, "up ", l.lives)
	if err != nil {
		return time.Time{}, err
	}
	micros, err := strconv.ParseInt(lines[l.lives-1], 10, 64)
	return time.UnixMicro(micros), err
}

// pid is the current process's, as the host has it.
func (l *lived) pid(ctx context.Context) (pid int, err error) {
	if l.driver == "docker" {
		c, err := l.Container(ctx, task)
		if err != nil {
			return 0, err
		}
		return c.State.Pid, nil
	}
	lines, err := l.Lines(task, "start pid=")
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(lines[len(lines)-1], &pid)
	return pid, err
}

// replaced makes do replace the task's process, and is when the old one had gone and when the new one's program ran.
func (l *lived) replaced(ctx context.Context, do func() error) (gone, up time.Time, err error) {
	pid, err := l.pid(ctx)
	if err != nil {
		return gone, up, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return gone, up, fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := do(); err != nil {
		return gone, up, err
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 500)
		if n > 0 {
			gone = time.Now()
			break
		}
		if err != nil && !errors.Is(err, unix.EINTR) || ctx.Err() != nil {
			return gone, up, errors.Join(err, context.Cause(ctx))
		}
	}
	up, err = l.next(ctx)
	return gone, up, err
}

// upSpec is a job whose program says when it runs.
func upSpec(driver, secret string) spec {
	return spec{driver: driver, count: 1, secrets: []string{secret}, run: []string{"up"}}
}

// gaps measures for how long a task has no process when it is restarted for a new secret. To have the built-in driver's, Nomad is
// asked to restart the task: that is what a template's change does, too, and it need not be waited for.
func gaps(ctx context.Context, b *bench) ([]line, error) {
	var lines []line
	for _, driver := range []string{"docker", "raw_exec"} {
		took, err := b.gapsOf(ctx, driver)
		if err != nil {
			return nil, err
		}
		l := line{what: fmt.Sprintf("gap between the old %s process's end and the new program, ms", driver)}
		for _, v := range []variant{ours, builtIn} {
			l.figures[v] = millis(took[v])
		}
		lines = append(lines, l)
	}
	return lines, nil
}

func (b *bench) gapsOf(ctx context.Context, driver string) (_ map[variant][]time.Duration, err error) {
	p, err := b.agents(ctx)
	if err != nil {
		return nil, err
	}
	const secret = "gap"
	if err := p.put(ctx, secret, "password"); err != nil {
		return nil, err
	}
	jobs, err := p.startBoth(ctx, func(variant) spec { return upSpec(driver, secret) })
	if err != nil {
		return nil, err
	}
	defer jobs.stop(ctx, &err)
	tasks, err := followBoth(ctx, jobs, driver)
	if err != nil {
		return nil, err
	}
	change := map[variant]func(round int) error{
		ours:    func(round int) error { return p.put(ctx, secret, fmt.Sprintf("password %d", round)) },
		builtIn: func(int) error { return tasks[builtIn].Restart(ctx, task) },
	}
	took := map[variant][]time.Duration{}
	for round := range b.rounds(7) {
		for _, v := range []variant{ours, builtIn} {
			gone, up, err := tasks[v].replaced(ctx, func() error { return change[v](round) })
			if err != nil {
				return nil, fmt.Errorf("replace the process of %s: %w", v, err)
			}
			took[v] = append(took[v], up.Sub(gone))
		}
	}
	return took, nil
}

// changes measures the time from a KV secret's write until the restarted task's program runs: ours over and over, while the
// built-in's one change is waited for.
func changes(ctx context.Context, b *bench) (_ []line, err error) {
	p, err := b.agents(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	secret := func(v variant) string { return fmt.Sprintf("change-%d", v) }
	if err := errors.Join(p.put(ctx, secret(ours), "password"), p.put(ctx, secret(builtIn), "password")); err != nil {
		return nil, err
	}
	jobs, err := p.startBoth(ctx, func(v variant) spec { return upSpec("raw_exec", secret(v)) })
	if err != nil {
		return nil, err
	}
	defer jobs.stop(ctx, &err)
	tasks, err := followBoth(ctx, jobs, "raw_exec")
	if err != nil {
		return nil, err
	}
	seen := func(v variant, password string) (time.Duration, error) {
		var written time.Time
		_, up, err := tasks[v].replaced(ctx, func() error {
			written = time.Now()
			return p.put(ctx, secret(v), password)
		})
		return up.Sub(written), err
	}
	type outcome struct {
		took time.Duration
		err  error
	}
	builtIns := make(chan outcome, 1)
	go func() {
		took, err := seen(builtIn, "another")
		builtIns <- outcome{took, err}
	}()
	var took []time.Duration
	for round := range b.rounds(12) {
		d, err := seen(ours, fmt.Sprintf("password %d", round))
		if err != nil {
			cancel()
			<-builtIns
			return nil, err
		}
		took = append(took, d)
		// The next write comes at another moment of the poll's interval.
		if err := pause(ctx, time.Duration(round%5)*pollInterval/5); err != nil {
			break
		}
	}
	b.say("  change: waiting for the built-in's")
	theirs := <-builtIns
	if theirs.err != nil {
		return nil, theirs.err
	}
	l := line{what: "from a KV secret's write until the restarted program runs, ms"}
	l.figures[ours], l.figures[builtIn] = millis(took), millis([]time.Duration{theirs.took})
	return []line{l}, nil
}
