package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live/internal/mountinfo"
)

const (
	tick = time.Second
	// idleEnd is how long a file server without directories waits for new ones.
	idleEnd = 5 * time.Second
	// orphansEvery is how often mounts are read for orphans: on a large node that takes a while.
	orphansEvery = 10 * time.Second
)

// Config is what a file server is started with.
type Config struct {
	Root     string            // where to mount: an empty directory
	Listener *net.UnixListener // bound, and its directory root's alone
	Context  string            // SELinux context of the files; empty: none
	Confine  bool              // change this process for good: it does nothing else, and ends when Run returns
	Ready    func()            // called when the file system is mounted and feeders are served
}

// Run serves until ctx ends or there have been no directories for a while: then its error is nil.
func Run(ctx context.Context, cfg Config) (err error) {
	all := &feeders{listener: cfg.Listener, root: cfg.Root, conns: map[*conn]bool{}}
	if cfg.Confine {
		all.warnings = protect()
	}
	all.store = newStore(all.log)

	fs, err := mount(&filesystem{refuse: refuse{fuse.NewDefaultRawFileSystem()}, store: all.store}, cfg, all)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() { fs.Serve(); close(ended) })
	defer func() {
		_ = cfg.Listener.Close()
		// A confined process cannot unmount. It ends now, and what it leaves is a dead mount that a feeder unmounts.
		if !cfg.Confine {
			_ = unix.Unmount(cfg.Root, unix.MNT_DETACH)
			wg.Wait()
		}
	}()

	if err := fs.WaitMount(); err != nil {
		return err
	}
	device, err := deviceOf(cfg.Root)
	if err != nil {
		return err
	}
	if cfg.Confine {
		if err := dropCapabilities(); err != nil {
			return err
		}
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() { all.serve(serving) })
	wg.Go(func() {
		all.store.prune(serving, func(parent uint64, name string) { _ = fs.EntryNotify(parent, name) })
	})
	if cfg.Ready != nil {
		cfg.Ready()
	}
	return all.store.keep(ctx, ended, device)
}

// mountOptions are of the one FUSE connection that serves all directories.
func mountOptions(context string, logger *log.Logger) *fuse.MountOptions {
	opts := &fuse.MountOptions{
		DirectMountStrict: true,
		DirectMountFlags:  unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY,
		AllowOther:        true,
		// Reads are larger than what a request may bring here, which takes a buffer for each reader.
		MaxWrite: 8 << 10,
		Options:  []string{"default_permissions", "max_read=131072"},
		// A node's content never changes, and listings are short.
		DisabledCapabilities:    fuse.CAP_MAX_PAGES | fuse.CAP_AUTO_INVAL_DATA,
		DisableReadDirPlus:      true,
		DisableSplice:           true,
		MaxInflightRequestBytes: 8 << 20,
		FsName:                  "nomad-driver-secrets",
		Name:                    "live",
		Logger:                  logger,
	}
	if context != "" { // quoted: a level may have commas
		opts.Options = append(opts.Options, "context=\""+context+"\"")
	}
	return opts
}

func mount(fs *filesystem, cfg Config, all *feeders) (*fuse.Server, error) {
	opts := mountOptions(cfg.Context, log.New(logLines(all.log), "file server: ", 0))
	server, err := fuse.NewServer(fs, cfg.Root, opts)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("mount the live directories at %s: %w: is there a /dev/fuse (modprobe fuse)?", cfg.Root, err)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("mount the live directories at %s: %w: root with CAP_SYS_ADMIN is needed", cfg.Root, err)
	case err != nil:
		return nil, fmt.Errorf("mount the live directories at %s: %w", cfg.Root, err)
	}
	return server, nil
}

// logLines gives what is written to a log on, line by line.
type logLines func(string)

func (l logLines) Write(line []byte) (int, error) {
	l(string(line))
	return len(line), nil
}

var _ io.Writer = logLines(nil)

func deviceOf(root string) (string, error) {
	m, ok, err := mountinfo.Top(root)
	if err == nil && !ok {
		err = errors.New("it is not there")
	}
	if err != nil {
		return "", fmt.Errorf("find the mount at %s: %w", root, err)
	}
	return m.Device, nil
}

// keep does what is due, until the end.
func (s *store) keep(ctx context.Context, ended <-chan struct{}, device string) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	busy := time.Now()
	var looked time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
			return errEnded
		case now := <-ticker.C:
			s.expire(now)
			if !s.empty() {
				busy = now
			}
			if now.Sub(busy) > idleEnd {
				return nil
			}
			if now.Sub(looked) < orphansEvery {
				continue
			}
			looked = now
			if orphans := s.orphans(now); len(orphans) > 0 {
				if err := s.removeUnused(orphans, device); err != nil {
					s.say("look for mounts of directories without a feeder: " + err.Error())
				}
			}
		}
	}
}
