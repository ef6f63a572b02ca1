package driver

import (
	"context"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/structs"
)

// Fingerprint is the inner driver's with the node attribute driver.<name>.secrets. Nothing about
// secrets changes a driver's health: health is one bit for scheduling, and jobs without secrets
// must go on (DESIGN 4). It is also the first call that only a plugin in earnest gets, so the
// revocations still owed are taken up here.
func (d *Driver) Fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	if _, err := d.keep(); err != nil {
		d.log.Error("secrets are not available; tasks that ask for them will not start", "error", err)
	}
	if d.wrapped.name == wrappedDocker.name && beside(d.name) {
		d.log.Warn("the built-in docker driver removes containers that it does not know, ours too: set gc { dangling_containers { enabled = false } } in its plugin block")
	}
	in, err := d.inner.Fingerprint(ctx)
	if err != nil {
		return nil, err
	}
	out := make(chan *drivers.Fingerprint)
	go func() {
		defer close(out)
		for fp := range in {
			select {
			case out <- d.mark(fp):
			case <-ctx.Done():
				for range in { // let the inner driver's sender end
				}
				return
			}
		}
	}()
	return out, nil
}

// mark adds the plugin's version to a fingerprint, and beside the built-in gives its attributes our
// name, so that the two do not overwrite each other's.
func (d *Driver) mark(fp *drivers.Fingerprint) *drivers.Fingerprint {
	if len(fp.Attributes) == 0 {
		return fp
	}
	marked := *fp
	marked.Attributes = make(map[string]*structs.Attribute, len(fp.Attributes)+1)
	inner := "driver." + d.wrapped.name
	for key, value := range fp.Attributes {
		if rest, ok := strings.CutPrefix(key, inner); ok && (rest == "" || rest[0] == '.') {
			key = "driver." + d.name + rest
		}
		marked.Attributes[key] = value
	}
	marked.Attributes["driver."+d.name+".secrets"] = structs.NewStringAttribute(Version)
	return &marked
}
