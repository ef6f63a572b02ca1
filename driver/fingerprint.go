package driver

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/shared/structs"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/guard"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver/nomadversion"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// Fingerprint is the inner driver's with the node attributes driver.<name>.secrets, if there is a Vault server to get them from,
// and driver.<name>.secrets.nomad: jobs that need them constrain on one, and stay away from a node that has none. Nothing about
// secrets changes a driver's health: health is one bit for scheduling, and jobs without secrets
// must go on. It is also the first call that only a plugin in earnest gets, so the
// pending revocations are resumed here.
func (d *Driver) Fingerprint(ctx context.Context) (<-chan *drivers.Fingerprint, error) {
	if _, err := d.keep(); err != nil {
		d.log.Error("secrets are not available; tasks that ask for them will not start", "error", err)
	}
	d.begun.Do(d.beginInEarnest)
	if d.wrapped.besideWarning != "" && beside(d.name) {
		d.log.Warn(d.wrapped.besideWarning)
	}
	ctx, end := context.WithCancel(ctx)
	in, err := d.inner.Fingerprint(ctx)
	if err != nil {
		end()
		return nil, err
	}
	out := make(chan *drivers.Fingerprint)
	d.agent.connected()
	d.background.Go(func() {
		defer d.agent.disconnected()
		defer close(out)
		defer end()
		defer context.AfterFunc(d.ctx, end)()
		for fp := range in {
			select {
			case out <- d.mark(fp):
			case <-ctx.Done():
				for range in { // let the inner driver's sender end
				}
				return
			}
		}
	})
	return out, nil
}

// beginInEarnest is what a plugin does once, when it knows that Nomad means to use it.
func (d *Driver) beginInEarnest() {
	if err := guard.Sweep(d.guardOptions().pins); err != nil {
		d.log.Warn("bind mounts of an earlier plugin process could not be removed", "error", err)
	}
	d.background.Go(func() { d.live.sweep(d.ctx, time.Tick(sweepEvery)) })
	d.logWithoutAddress()
	d.background.Go(d.serveOperator)
	d.serveMetrics()
	agent := os.Getppid() // later it may be another's
	d.background.Go(func() { d.compareVersions(nomadversion.Wrapped(), agent) })
}

// compareVersions says once which Nomad the wrapped driver is from, and warns where the agent is of a newer:
// of what it does better, only what the README lists is made up for.
func (d *Driver) compareVersions(from string, agent int) {
	than := nomadversion.OfAgent(d.ctx, agent)
	d.log.Info("versions of the plugin and of Nomad", "plugin", Version, "commit", Commit, "wrapped_driver", from, "agent", than) // empty is not known
	if nomadversion.Newer(than, from) {
		d.log.Warn("the agent is newer than the wrapped driver: what Nomad has changed in its driver since is not in this plugin, but for the security fixes that its README lists",
			"agent", than, "wrapped_driver", from)
	}
}

// logWithoutAddress says what to set where there is no address of a Vault server. That is no error: jobs without secrets
// run here all the same, and so do those that have Nomad Variables only.
func (d *Driver) logWithoutAddress() {
	if addr, err := d.address(); err == nil && addr == "" { // an address that is none is in Fingerprint's error
		d.log.Info(fmt.Sprintf("no address of a Vault server: tasks with secrets of Vault's cannot start on this node, and its attribute driver.%[1]s.secrets is left out, "+
			"while those with Nomad Variables can; for Vault set `address` in the agent's configuration, plugin %[1]q { config { secrets { address = \"https://…:8200\" } } }, or VAULT_ADDR in the agent's environment, and restart the agent", d.name))
	}
}

// serveMetrics answers Prometheus, if the operator gives an address for that.
func (d *Driver) serveMetrics() {
	d.mu.Lock()
	opts := d.opts.metrics
	d.mu.Unlock()
	if opts.Address == "" {
		return
	}
	d.metrics.Collect(d.name, opts.PerSecret, d.gauges)
	d.background.Go(func() { d.metrics.Serve(d.ctx, opts.Address) })
}

// gauges is how things stand with the secrets of all tasks; false: there is no keeper yet.
func (d *Driver) gauges() (lifecycle.Gauges, bool) {
	d.mu.Lock()
	keeper := d.keeper
	d.mu.Unlock()
	if keeper == nil {
		return lifecycle.Gauges{}, false
	}
	g, err := keeper.Gauges()
	if err != nil {
		d.log.Warn("metrics: the pending revocations cannot be counted", "error", err)
	}
	return g, true
}

// address is the secrets server's; empty: none is configured.
func (d *Driver) address() (string, error) {
	d.mu.Lock()
	opts := d.opts.vault
	d.mu.Unlock()
	client, err := vault.New(opts)
	if err != nil {
		return "", err
	}
	return client.Address(), nil
}

// mark adds the plugin's version to a fingerprint, for Vault if it has an address of one, and beside the built-in gives its attributes our
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
	if addr, err := d.address(); err == nil && addr != "" {
		marked.Attributes["driver."+d.name+".secrets"] = structs.NewStringAttribute(Version)
	}
	marked.Attributes["driver."+d.name+".secrets.nomad"] = structs.NewStringAttribute(Version)
	if from := nomadversion.Wrapped(); from != "" {
		marked.Attributes["driver."+d.name+".secrets.wrapped_nomad"] = structs.NewStringAttribute(from)
	}
	return &marked
}
