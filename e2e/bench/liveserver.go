package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
)

// liveNode is a node's live directories without Nomad: this process feeds them.
type liveNode struct {
	dir    string
	feeder *live.Feeder
}

func newLiveNode() (_ *liveNode, err error) {
	dir, err := os.MkdirTemp("", "bench-live-")
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir) // mounts are known by their real paths
	}
	if err != nil {
		return nil, err
	}
	n := &liveNode{dir: dir}
	if err := live.SharedDir(n.path("shared")); err != nil {
		return nil, errors.Join(err, n.close())
	}
	n.open()
	return n, nil
}

func (n *liveNode) path(name string) string { return filepath.Join(n.dir, name) }

func (n *liveNode) open() {
	n.feeder = live.Open(live.Config{Feeder: "bench", Dir: n.path("live"), Log: hclog.NewNullLogger()})
}

// end ends the feeder and the file server, with all that is mounted: the next directory is the node's first again.
func (n *liveNode) end(ctx context.Context) error {
	if n.feeder != nil {
		n.feeder.Close()
		n.feeder = nil
	}
	for pid := n.server(); pid != 0; pid = n.server() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	placed, err := filepath.Glob(n.path("shared/*"))
	for _, mounted := range append(placed, n.path("live/v1")) {
		err = errors.Join(err, live.Clear(mounted))
	}
	return errors.Join(err, os.RemoveAll(n.path("live")))
}

func (n *liveNode) close() error {
	return errors.Join(n.end(context.Background()), live.Clear(n.path("shared")), os.RemoveAll(n.dir))
}

// server is the file server's process; 0: none.
func (n *liveNode) server() (pid int) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, _ := os.ReadFile(p)
		if args := strings.Split(string(line), "\x00"); len(args) > 2 && args[1] == "serve" && strings.HasPrefix(args[2], n.dir+"/") {
			_, _ = fmt.Sscanf(p, "/proc/%d/", &pid)
		}
	}
	return pid
}

// password is the value of all fields.
const password = "password"

// place does what a task's start does for a live directory, and gives its place.
func (n *liveNode) place(ctx context.Context, name string) (string, error) {
	source, err := n.feeder.Declare(ctx, live.Directory{Name: name, Stale: time.Hour})
	if err != nil {
		return "", err
	}
	if err := n.set(ctx, name); err != nil {
		return "", err
	}
	target := n.path("shared/" + name)
	if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return target, live.Place(source, target)
}

func (n *liveNode) set(ctx context.Context, name string) error {
	fields := []live.Field{{Path: "user", Value: secrets.TextValue("user")}, {Path: "password", Value: secrets.TextValue(password)}}
	return n.feeder.Set(ctx, name, fields, time.Now())
}

// liveServer measures the file server by itself: what it adds to a start, how long a read takes, and its memory.
func liveServer(ctx context.Context, b *bench) (lines []line, err error) {
	for _, measure := range []func(context.Context, *bench, *liveNode) ([]line, error){liveStarts, liveLatency, liveMemory} {
		n, err := newLiveNode()
		if err != nil {
			return nil, err
		}
		more, err := measure(ctx, b, n)
		if err = errors.Join(err, n.close()); err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	return lines, nil
}

func liveStarts(ctx context.Context, b *bench, n *liveNode) ([]line, error) {
	took := map[string][]time.Duration{}
	for range b.rounds(15) {
		if err := settle(ctx); err != nil {
			return nil, err
		}
		for _, name := range []string{"first", "further"} {
			began := time.Now()
			if _, err := n.place(ctx, name); err != nil {
				return nil, err
			}
			took[name] = append(took[name], time.Since(began))
		}
		if err := n.end(ctx); err != nil {
			return nil, err
		}
		n.open()
	}
	return []line{
		one("a node's first live directory, which starts the file server, adds to a start, ms", millis(took["first"])),
		one("each further live directory adds to a start, ms", millis(took["further"])),
	}, nil
}

func liveLatency(ctx context.Context, b *bench, n *liveNode) ([]line, error) {
	dir, err := n.place(ctx, "a")
	if err != nil {
		return nil, err
	}
	file := n.path("shared/file")
	if err := os.WriteFile(file, []byte(password), 0o400); err != nil {
		return nil, err
	}
	took := map[string][]time.Duration{}
	read := func(what, path string) error {
		began := time.Now()
		content, err := os.ReadFile(path)
		took[what] = append(took[what], time.Since(began))
		if err == nil && string(content) != password {
			err = fmt.Errorf("%s has %d other bytes than the secret", path, len(content))
		}
		return err
	}
	field := filepath.Join(dir, "password")
	for range b.rounds(5) {
		if err := settle(ctx); err != nil {
			return nil, err
		}
		for range 4000 {
			if err := errors.Join(read("same", field), read("file", file)); err != nil {
				return nil, err
			}
		}
		for range 400 {
			if err := errors.Join(n.set(ctx, "a"), read("changed", field)); err != nil {
				return nil, err
			}
		}
	}
	micros := func(what string) string {
		return fmt.Sprintf("%d (99 of 100 within %d)", median(took[what]).Microseconds(), quantile(took[what], 0.99).Microseconds())
	}
	same := one("a read in a live directory, of a field that is as before (the built-in's: of a file), µs", micros("same"))
	same.figures[builtIn] = micros("file")
	return []line{same, one("a read in a live directory, the first after a change, µs", micros("changed"))}, nil
}

func liveMemory(ctx context.Context, b *bench, n *liveNode) ([]line, error) {
	const directories = 100
	var fields []string
	for i := range directories {
		dir, err := n.place(ctx, fmt.Sprint("d", i))
		if err != nil {
			return nil, err
		}
		fields = append(fields, filepath.Join(dir, "password"))
	}
	if err := settle(ctx); err != nil {
		return nil, err
	}
	pid := n.server()
	idle, busy := resident(pid), uint64(0)
	reading, stop := context.WithTimeout(ctx, time.Duration(b.rounds(5))*time.Second)
	defer stop()
	var readers errgroup.Group
	for i := range 8 {
		readers.Go(func() error {
			for ; reading.Err() == nil; i++ {
				if _, err := os.ReadFile(fields[i%directories]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for reading.Err() == nil {
		busy = max(busy, resident(pid))
		_ = pause(reading, 50*time.Millisecond)
	}
	if err := errors.Join(readers.Wait(), ctx.Err()); err != nil {
		return nil, err
	}
	what := fmt.Sprintf("memory of the file server with %d live directories, MiB: ", directories)
	return []line{one(what+"idle", mib(idle)), one(what+"with 8 readers", mib(busy))}, nil
}
