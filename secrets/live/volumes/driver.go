package volumes

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	docker "github.com/docker/go-plugins-helpers/volume"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/live"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

const (
	// lookRate bounds the looks of all volumes: half of what the driver's plugins allow themselves. Beyond it intervals stretch.
	lookRate = 10

	// mountSoon is how long Docker takes at most from asking for a volume to having it mounted in a container.
	mountSoon  = 2 * time.Minute
	sweepEvery = 30 * time.Second

	opTimeout = 25 * time.Second // Docker waits 30 s in all
)

// Config is what the operator says.
type Config struct {
	Server      *vault.Client
	Credentials Credentials
	Allow       Allow
	StateDir    string // on disk: which volumes there are, and the audit log
	Home        string // of the file servers: root's alone
	Shared      string // a directory on a shared mount, which need not outlive the machine
	Log         hclog.Logger
}

// Driver is the volume driver. It implements docker.Driver.
type Driver struct {
	alone   *os.File // locked: two drivers would take each other's directories away
	server  server
	token   *token
	allow   Allow
	log     hclog.Logger
	state   string
	targets string
	key     []byte // of digests
	limit   *rate.Limiter
	audit   *live.Audit
	feeder  *live.Feeder

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards the rest
	volumes map[string]*volume
	byDir   map[string]*volume
	sources map[sourceKey]*source

	saving sync.Mutex // of the state file
}

var _ docker.Driver = (*Driver)(nil)

// Open serves the volumes that there are.
func Open(cfg Config) (_ *Driver, err error) {
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, err
	}
	targets := filepath.Join(cfg.Shared, "volumes")
	if err := os.MkdirAll(targets, 0o700); err != nil { // above directories that everybody may read
		return nil, err
	}
	alone, err := lockHome(cfg.Home)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = alone.Close()
		}
	}()
	known, err := loadState(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	audit, err := live.OpenAudit(filepath.Join(cfg.StateDir, "audit.log"))
	if err != nil {
		return nil, err
	}
	d := &Driver{
		alone:  alone,
		server: cfg.Server, token: newToken(cfg.Server, cfg.Credentials, cfg.Log), allow: cfg.Allow, log: cfg.Log,
		state: cfg.StateDir, targets: targets, key: make([]byte, 32), limit: rate.NewLimiter(lookRate, lookRate), audit: audit,
		volumes: map[string]*volume{}, byDir: map[string]*volume{}, sources: map[sourceKey]*source{},
	}
	_, _ = rand.Read(d.key)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.feeder = live.Open(live.Config{
		Feeder: "volumes", Dir: cfg.Home, Log: cfg.Log, Healed: d.healed, Want: d.want, Reads: d.reads,
	})
	for _, s := range known {
		d.add(d.newVolume(*s))
	}
	d.wg.Go(func() { d.token.run(d.ctx) })
	d.wg.Go(d.serveAgain)
	return d, nil
}

// Close ends the driver. What containers have mounted goes on.
func (d *Driver) Close() {
	d.cancel()
	d.wg.Wait()
	d.mu.Lock()
	var ended []<-chan struct{}
	for _, s := range d.sources {
		ended = append(ended, s.ended)
	}
	d.mu.Unlock()
	for _, e := range ended {
		<-e
	}
	d.feeder.Close()
	_ = d.audit.Close()
	_ = d.alone.Close()
}

// serveAgain serves again what is in use, then looks from time to time what is not any more.
func (d *Driver) serveAgain() {
	for _, v := range d.all() {
		if err := d.resume(v); err != nil {
			d.log.Error("a volume in use cannot be served yet", "volume", v.Name, "error", err)
		}
	}
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-ticker.C:
		}
		for _, v := range d.all() {
			d.sweep(v)
		}
	}
}

func (d *Driver) resume(v *volume) error {
	v.op.Lock()
	defer v.op.Unlock()
	if v.forgetMounts(365*24*time.Hour) == 0 && v.inUse() == nil {
		v.unserve() // what a crash may have left
		return nil
	}
	return v.serveInUse()
}

// sweep serves what is used and not served, and ends what nobody uses. Docker does not send an Unmount again that was lost, and
// forgets its mounts in a crash.
func (d *Driver) sweep(v *volume) {
	v.op.Lock()
	defer v.op.Unlock()
	if d.ctx.Err() != nil {
		return
	}
	unusedBefore := v.unused
	v.unused = false
	users, err := live.Users(v.target)
	switch {
	case err != nil:
		d.log.Error("it is not known who uses a volume: nothing is done about it", "volume", v.Name, "error", err)
	case users > 0:
		if err := v.serveInUse(); err != nil && d.ctx.Err() == nil {
			d.log.Error("a volume in use cannot be served yet", "volume", v.Name, "error", err)
		}
	case v.served() == nil:
	case !unusedBefore: // a container whose volume is taken away never gets it back: so one look is not enough
		v.unused = true
	case v.forgetMounts(mountSoon) == 0:
		v.unserve()
		if err := d.save(); err != nil {
			d.log.Warn("the volumes' state cannot be written", "error", err)
		}
	}
}

// Create makes a volume. Its secret is read, so that an error is told now, and nothing is left of it.
func (d *Driver) Create(req *docker.CreateRequest) error {
	name, err := normalise(req.Name)
	if err != nil {
		return err
	}
	opts, err := parseOptions(name, req.Options)
	if err != nil {
		return err
	}
	if err := d.allow.Check(opts); err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	if have := d.find(name); have != nil {
		return have.sameAs(opts)
	}
	ctx, cancel := context.WithTimeout(d.ctx, opTimeout)
	defer cancel()
	if _, _, err := d.fetch(ctx, opts.request()); err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	if have := d.add(d.newVolume(savedVolume{Name: name, Options: opts, Created: time.Now().UTC()})); have != nil {
		return have.sameAs(opts) // somebody else was quicker
	}
	if err := d.save(); err != nil {
		d.remove(name)
		return err
	}
	d.log.Info("created a volume", "volume", name, "path", opts.Path)
	return nil
}

// Mount serves a volume and says where.
func (d *Driver) Mount(req *docker.MountRequest) (*docker.MountResponse, error) {
	v, err := d.get(req.Name)
	if err != nil {
		return nil, err
	}
	v.op.Lock()
	defer v.op.Unlock()
	if d.find(v.Name) != v {
		return nil, fmt.Errorf("volume %s was just removed", v.Name)
	}
	if err := d.allow.Check(v.Options); err != nil { // the operator may have changed it
		return nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	ctx, cancel := context.WithTimeout(d.ctx, opTimeout)
	defer cancel()
	if err := v.serve(ctx, true); err != nil {
		v.release(req.ID)
		return nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	v.mounted(req.ID)
	if err := d.save(); err != nil {
		v.release(req.ID)
		return nil, err
	}
	return &docker.MountResponse{Mountpoint: v.target}, nil
}

// Unmount ends the serving of a volume, unless others have it.
func (d *Driver) Unmount(req *docker.UnmountRequest) error {
	v, err := d.get(req.Name)
	if err != nil {
		return err
	}
	v.op.Lock()
	defer v.op.Unlock()
	v.release(req.ID)
	return d.save()
}

// Remove removes a volume that nobody uses.
func (d *Driver) Remove(req *docker.RemoveRequest) error {
	v, err := d.get(req.Name)
	if err != nil {
		return err
	}
	v.op.Lock()
	defer v.op.Unlock()
	if err := v.inUse(); err != nil {
		return err
	}
	if v.forgetMounts(mountSoon) > 0 {
		return fmt.Errorf("volume %s is in use: a container with it is being started", v.Name)
	}
	v.unserve()
	d.remove(v.Name)
	return d.save()
}

// Get tells of a volume, by the name that it is asked for.
func (d *Driver) Get(req *docker.GetRequest) (*docker.GetResponse, error) {
	v, err := d.get(req.Name)
	if err != nil {
		return nil, err
	}
	described := v.describe()
	described.Name = req.Name
	return &docker.GetResponse{Volume: described}, nil
}

// List names all volumes.
func (d *Driver) List() (*docker.ListResponse, error) {
	var r docker.ListResponse
	for _, v := range d.all() {
		r.Volumes = append(r.Volumes, v.describe())
	}
	return &r, nil
}

// Path is where a volume is mounted, if it is.
func (d *Driver) Path(req *docker.PathRequest) (*docker.PathResponse, error) {
	v, err := d.get(req.Name)
	if err != nil {
		return nil, err
	}
	return &docker.PathResponse{Mountpoint: v.describe().Mountpoint}, nil
}

// Capabilities says that a volume is on this node alone.
func (d *Driver) Capabilities() *docker.CapabilitiesResponse {
	return &docker.CapabilitiesResponse{Capabilities: docker.Capability{Scope: "local"}}
}

func (v *volume) describe() *docker.Volume {
	v.mu.Lock()
	defer v.mu.Unlock()
	info := &docker.Volume{
		Name: v.Name, CreatedAt: v.Created.Format(time.RFC3339),
		Status: map[string]any{"path": v.Options.Path, "stale": v.Options.Stale.String()},
	}
	if v.source != nil {
		info.Mountpoint = v.target
	}
	return info
}

// healed places all directories again.
func (d *Driver) healed(ctx context.Context) {
	for _, v := range d.all() {
		if v.served() == nil {
			continue
		}
		if err := v.placeAgain(ctx); err != nil && !errors.Is(err, context.Canceled) {
			d.log.Error("a volume's directory is not back", "volume", v.Name, "error", err)
		}
	}
}

func (d *Driver) want(dir string) {
	if v := d.ofDir(dir); v != nil {
		if s := v.served(); s != nil {
			s.isRead()
			s.want()
		}
	}
}

func (d *Driver) reads(r live.Reads) {
	for _, dir := range r.Active {
		if v := d.ofDir(dir); v != nil {
			if s := v.served(); s != nil {
				s.isRead()
			}
		}
	}
	var lines []live.AuditLine
	for _, o := range r.Opens {
		line := live.AuditLine{Time: o.At.UTC(), Field: o.Field, UID: o.UID, PID: o.PID, Result: o.Result}
		if v := d.ofDir(o.Dir); v != nil {
			line.Volume, line.Secret = v.Name, v.Options.Path
		}
		lines = append(lines, line)
	}
	if r.Lost > 0 {
		lines = append(lines, live.AuditLine{Time: time.Now().UTC(), Result: "lost", Count: r.Lost})
	}
	if err := d.audit.Write(lines...); err != nil {
		d.log.Error("reads of volumes are not in the audit log", "error", err)
	}
}
