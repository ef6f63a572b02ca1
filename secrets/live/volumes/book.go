package volumes

import (
	"fmt"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets"
)

// What volumes and sources there are.

func (d *Driver) all() []*volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	return sortedVolumes(d.volumes)
}

func (d *Driver) find(name string) *volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.volumes[name]
}

// get finds a volume by any spelling of its name.
func (d *Driver) get(name string) (*volume, error) {
	clean, err := normalise(name)
	if err != nil {
		return nil, err
	}
	if v := d.find(clean); v != nil {
		return v, nil
	}
	return nil, fmt.Errorf("no such volume: %s", clean)
}

func (d *Driver) ofDir(dir string) *volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.byDir[dir]
}

// add adds a volume, unless there is one of its name: that is given then.
func (d *Driver) add(v *volume) (have *volume) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if have := d.volumes[v.Name]; have != nil {
		return have
	}
	d.volumes[v.Name], d.byDir[v.dir] = v, v
	return nil
}

func (d *Driver) remove(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v := d.volumes[name]; v != nil {
		delete(d.volumes, name)
		delete(d.byDir, v.dir)
	}
}

// save writes the state file.
func (d *Driver) save() error {
	d.saving.Lock()
	defer d.saving.Unlock()
	var list []*savedVolume
	for _, v := range d.all() {
		list = append(list, v.save())
	}
	return saveState(d.state, list)
}

// attach gives a volume the source of its secret, which it shares with others.
func (d *Driver) attach(v *volume) *source {
	req := v.Options.request()
	d.mu.Lock()
	s := d.sources[key(req)]
	if s == nil {
		s = d.newSource(req)
		d.sources[key(req)] = s
	}
	s.mu.Lock()
	s.volumes[v] = true
	s.mu.Unlock()
	d.mu.Unlock()
	return s
}

// detach ends a source with its last volume.
func (d *Driver) detach(v *volume, s *source) {
	d.mu.Lock()
	s.mu.Lock()
	delete(s.volumes, v)
	last := len(s.volumes) == 0
	s.mu.Unlock()
	if last {
		delete(d.sources, key(s.req))
	}
	d.mu.Unlock()
	if last {
		s.cancel()
		<-s.ended
	}
}

// sourceKey is what makes two requests the same.
type sourceKey struct {
	namespace, path string
	version         int
}

func key(r secrets.Request) sourceKey { return sourceKey{r.Namespace, r.Path, r.Version} }
