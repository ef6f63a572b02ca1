package doctor

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/agentconf"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/nomadversion"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle/rootonly"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// Options say what to look at.
type Options struct {
	Paths []string      // the agent's -config; none: the running agent's
	Token secrets.Value // to read the JWT role with; empty: what is seen without
}

// Gather finds out about this machine. What cannot be found out is an error in the Node.
func Gather(ctx context.Context, o Options) Node {
	n := Node{Now: time.Now(), Version: driver.Version, UID: os.Geteuid(), Wrapped: nomadversion.Wrapped()}
	var uname unix.Utsname
	if err := unix.Uname(&uname); err == nil {
		n.Kernel = unix.ByteSliceToString(uname.Release[:])
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		n.FuseErr = err
	}
	n.Config, n.Agent, n.ConfigErr = agentconf.Find(ctx, o.Paths)
	if n.ConfigErr != nil {
		return n
	}
	n.gatherFiles()
	n.gatherDrivers(ctx)
	n.gatherServers(ctx, o.Token)
	n.gatherStates()
	return n
}

func (n *Node) gatherFiles() {
	dir := n.Config.PluginDir
	if dir == "" {
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		n.PluginDirErr = err
		return
	}
	var on unix.Statfs_t
	if err := unix.Statfs(dir, &on); err == nil {
		n.NoExec = on.Flags&unix.ST_NOEXEC != 0
	}
	unsafeDir := ""
	if d, err := rootonly.Open(absolute(dir)); err != nil {
		unsafeDir = err.Error()
	} else {
		_ = d.Close()
	}
	for _, e := range entries {
		if f, ok := lookAt(filepath.Join(dir, e.Name())); ok {
			if f.Unsafe == "" {
				f.Unsafe = unsafeDir
			}
			n.Files = append(n.Files, f)
		}
	}
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// module is this program's, in every version of it.
const module = "github.com/nomad-driver-secrets/nomad-driver-secrets"

// lookAt tells what a file in plugin_dir is; false of directories, which Nomad skips.
func lookAt(path string) (File, bool) {
	f := File{Name: filepath.Base(path)}
	info, err := os.Stat(path) // Nomad follows links, too
	if err != nil {
		f.Err = err
		f.Ours = slices.Contains(driver.Names(), f.Name)
		return f, true
	}
	if !info.Mode().IsRegular() {
		return f, false
	}
	f.Executable = info.Mode()&0o111 != 0
	if build, err := buildinfo.ReadFile(path); err == nil {
		f.Ours = build.Main.Path == module
	}
	if f.Ours {
		same, err := sameContent(path, "/proc/self/exe")
		f.Differs = err == nil && !same
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err == nil && (st.Uid != 0 && int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0) {
		f.Unsafe = fmt.Sprintf("%s is owned by user %d, mode %04o", path, st.Uid, st.Mode&0o7777)
	}
	return f, true
}

// sameContent compares two files. What is built into a release's program tells no version of it.
func sameContent(a, b string) (bool, error) {
	infoA, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	infoB, err := os.Stat(b)
	if err != nil || infoA.Size() != infoB.Size() || os.SameFile(infoA, infoB) {
		return err == nil && os.SameFile(infoA, infoB), err
	}
	sumA, err := sumOf(a)
	if err != nil {
		return false, err
	}
	sumB, err := sumOf(b)
	return sumA == sumB, err
}

func sumOf(path string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return [sha256.Size]byte(h.Sum(nil)), err
}

// gatherDrivers looks at the blocks of this program's files, and at those that have a block of ours in them.
func (n *Node) gatherDrivers(ctx context.Context) {
	for _, p := range n.Config.Plugins {
		_, secrets := p.Block("secrets")
		file := slices.ContainsFunc(n.Files, func(f File) bool { return f.Ours && f.Name == p.Name })
		if !slices.Contains(driver.Names(), p.Name) || !secrets && !file {
			continue
		}
		d := Driver{Name: p.Name, Plugin: p}
		if d.Settings, d.ConfigErr = driver.ReadSettings(ctx, p.Name, p.Config); d.ConfigErr == nil {
			n.address(&d.Settings)
			d.gatherOptionFiles()
			if d.Settings.OfEngine {
				d.Engine, d.EngineErr = engineVersion(ctx, d.Settings)
			}
		}
		n.Drivers = append(n.Drivers, d)
	}
}

// address fills in what the plugin takes where its block has none: the environment is the agent's, if one runs.
func (n *Node) address(s *driver.Settings) {
	switch {
	case s.Vault.Address != "":
	case n.Agent != nil:
		s.Vault.Address = n.Agent.VaultAddr
	default:
		s.Vault.Address = os.Getenv("VAULT_ADDR")
	}
}

// askTimeout bounds one question to what may not answer.
const askTimeout = 10 * time.Second

func engineVersion(ctx context.Context, s driver.Settings) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	engine, err := s.Engine()
	if err != nil {
		return "", err
	}
	defer func() { _ = engine.Close() }()
	return engine.Version(ctx)
}

func (n *Node) gatherStates() {
	_, canMount := agentconf.Rights(os.Getpid())
	if n.Agent != nil {
		canMount = n.Agent.CanMount
	}
	for _, d := range n.Drivers {
		if d.ConfigErr != nil {
			continue
		}
		if slices.ContainsFunc(n.States, func(s StateDir) bool { return s.Path == d.Settings.StateDir }) {
			continue
		}
		s := stateDirAt(d.Settings.StateDir)
		s.CanMount = canMount
		n.States = append(n.States, s)
	}
}

// stateDirAt looks at a state directory as the plugin will find it, and at the mounts below it.
func stateDirAt(path string) StateDir {
	s := StateDir{Path: path, OnDisk: map[string]string{}}
	dir, err := rootonly.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist): // what is above it has been checked on the way
		s.Missing = true
		return s
	case err != nil:
		s.Unsafe = err
		return s
	}
	_ = dir.Close()
	s.Mounted = true
	for _, name := range []string{"journal", "shared"} {
		mounted, memory, kind := mountedAt(path, name)
		if !mounted {
			s.Mounted = false
		} else if !memory {
			s.OnDisk[name] = kind
		}
	}
	return s
}

// mountedAt reports whether something is mounted at a directory, and whether that is in memory.
func mountedAt(parent, name string) (mounted, memory bool, kind string) {
	var above, st unix.Stat_t
	var on unix.Statfs_t
	path := filepath.Join(parent, name)
	if unix.Lstat(parent, &above) != nil || unix.Lstat(path, &st) != nil || st.Dev == above.Dev || unix.Statfs(path, &on) != nil {
		return false, false, ""
	}
	return true, on.Type == unix.TMPFS_MAGIC || on.Type == unix.RAMFS_MAGIC, fmt.Sprintf("type %#x", on.Type)
}
