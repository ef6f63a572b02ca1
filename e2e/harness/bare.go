package harness

import (
	"context"
	"errors"
	"path/filepath"
)

// StartBare starts a cluster of a Vault and the images alone, for tests that need no Nomad. It has the plugin's binary.
func StartBare(ctx context.Context) (_ *Cluster, err error) {
	dir, err := newWorkDir()
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, progress: func(string) {}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.binDir, err = dir.mkdir("bin"); err != nil {
		return nil, err
	}
	testapp, err := buildTestApp(ctx, c.binDir)
	if err != nil {
		return nil, err
	}
	if c.Images, err = makeImages(ctx, filepath.Base(dir.path), testapp); err != nil {
		return nil, err
	}
	if c.plugin, err = buildPlugin(ctx); err != nil {
		return nil, err
	}
	c.Vault, err = c.NewVault(ctx, "vault")
	return c, err
}

// StartNomad starts a cluster of a Nomad alone, with the plugin.
func StartNomad(ctx context.Context, opts Options) (_ *Cluster, err error) {
	if err := checkMachine(); err != nil {
		return nil, err
	}
	dir, err := newWorkDir()
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, progress: opts.Progress}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.binDir, err = dir.mkdir("bin"); err != nil {
		return nil, err
	}
	c.progress("making the images")
	testapp, err := buildTestApp(ctx, c.binDir)
	if err != nil {
		return nil, err
	}
	if c.Images, err = makeImages(ctx, filepath.Base(dir.path), testapp); err != nil {
		return nil, err
	}
	c.progress("building the plugin")
	if c.plugin, err = buildPlugin(ctx); err != nil {
		return nil, err
	}
	c.progress("starting Nomad")
	c.Agent, err = c.NewAgent(ctx, opts.Agent)
	return c, err
}

// Plugin is the path of the plugin's binary.
func (c *Cluster) Plugin() string { return c.plugin }
