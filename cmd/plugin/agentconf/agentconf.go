// Package agentconf reads what the operator's commands need of a Nomad agent: its configuration, as the agent itself reads
// it (files of HCL 1 or JSON, directories, later ones over earlier ones), and the process that runs with it.
package agentconf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl"
)

// DefaultDir is where packages of Nomad have its configuration.
const DefaultDir = "/etc/nomad.d"

// Config is the part of an agent's configuration that is about this plugin.
type Config struct {
	Files     []string // that were read
	DataDir   string
	PluginDir string // where it is by default, if it is not given
	LogFile   string
	AllocDir  string // of the client
	Client    bool   // the agent runs tasks
	Plugins   []Plugin
}

// Plugin is one `plugin "NAME" {}` block.
type Plugin struct {
	Name   string
	Config map[string]any
	File   string // that it is in
	// Replaced are files with an earlier block of the name, whose config does not count.
	Replaced []string
}

// Plugin finds a block by its name.
func (c Config) Plugin(name string) (Plugin, bool) {
	i := slices.IndexFunc(c.Plugins, func(p Plugin) bool { return p.Name == name })
	if i < 0 {
		return Plugin{}, false
	}
	return c.Plugins[i], true
}

// Block is a block within a plugin's config by its path, and whether it is there.
func (p Plugin) Block(path ...string) (map[string]any, bool) {
	at := p.Config
	for _, name := range path {
		switch v := at[name].(type) {
		case map[string]any:
			at = v
		case []map[string]any: // as HCL has blocks
			if len(v) == 0 {
				return nil, false
			}
			at = v[len(v)-1]
		default:
			return nil, false
		}
	}
	return at, true
}

// file is one file's content. Keys that are not named here are the agent's own business.
type file struct {
	DataDir   string `hcl:"data_dir"`
	PluginDir string `hcl:"plugin_dir"`
	LogFile   string `hcl:"log_file"`
	Client    *struct {
		Enabled  bool   `hcl:"enabled"`
		AllocDir string `hcl:"alloc_dir"`
	} `hcl:"client"`
	Plugins []*struct {
		Name   string         `hcl:",key"`
		Config map[string]any `hcl:"config"`
	} `hcl:"plugin"`
}

// Load reads files and directories in the order in which the agent is given them.
func Load(paths ...string) (Config, error) {
	var c Config
	for _, path := range paths {
		files, err := filesOf(path)
		if err != nil {
			return c, err
		}
		for _, f := range files {
			if err := c.read(f); err != nil {
				return c, err
			}
		}
	}
	c.fillIn()
	return c, nil
}

// fillIn has what Nomad takes where nothing is given.
func (c *Config) fillIn() {
	if c.PluginDir == "" && c.DataDir != "" {
		c.PluginDir = filepath.Join(c.DataDir, "plugins")
	}
	if c.AllocDir == "" && c.DataDir != "" {
		c.AllocDir = filepath.Join(c.DataDir, "alloc")
	}
}

// Override puts the agent's command line over its files: empty ones change nothing.
func (c *Config) Override(dataDir, pluginDir string) {
	if dataDir != "" {
		if c.PluginDir == filepath.Join(c.DataDir, "plugins") {
			c.PluginDir = ""
		}
		if c.AllocDir == filepath.Join(c.DataDir, "alloc") {
			c.AllocDir = ""
		}
		c.DataDir = dataDir
	}
	if pluginDir != "" {
		c.PluginDir = pluginDir
	}
	c.fillIn()
}

// filesOf are a path's files: of a directory those that Nomad takes, by name.
func filesOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	entries, err := os.ReadDir(path) // sorted
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		name := e.Name()
		if temporary := strings.HasSuffix(name, "~") || strings.HasPrefix(name, ".#") || strings.HasPrefix(name, "#") && strings.HasSuffix(name, "#"); temporary {
			continue
		}
		if ext := filepath.Ext(name); !e.IsDir() && (ext == ".hcl" || ext == ".json") {
			files = append(files, filepath.Join(path, name))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no .hcl or .json file in it", path)
	}
	return files, nil
}

// read puts a file over what has been read.
func (c *Config) read(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var f file
	if err := hcl.Decode(&f, string(content)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	c.Files = append(c.Files, path)
	over(&c.DataDir, f.DataDir)
	over(&c.PluginDir, f.PluginDir)
	over(&c.LogFile, f.LogFile)
	if f.Client != nil {
		c.Client = c.Client || f.Client.Enabled
		over(&c.AllocDir, f.Client.AllocDir)
	}
	var errs []error
	for _, p := range f.Plugins {
		if p.Name == "" {
			errs = append(errs, fmt.Errorf("%s: a plugin block without a name", path))
			continue
		}
		c.merge(Plugin{Name: p.Name, Config: p.Config, File: path})
	}
	return errors.Join(errs...)
}

func over(to *string, value string) {
	if value != "" {
		*to = value
	}
}

// merge puts a block over an earlier one of its name. As in Nomad the later one's whole config counts, if it has one.
func (c *Config) merge(p Plugin) {
	i := slices.IndexFunc(c.Plugins, func(o Plugin) bool { return o.Name == p.Name })
	if i < 0 {
		c.Plugins = append(c.Plugins, p)
		return
	}
	earlier := &c.Plugins[i]
	if len(p.Config) == 0 {
		return
	}
	if len(earlier.Config) > 0 {
		earlier.Replaced = append(earlier.Replaced, earlier.File)
	}
	earlier.Config, earlier.File = p.Config, p.File
}
