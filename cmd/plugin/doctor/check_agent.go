package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/agentconf"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/screen"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
)

// skipped is what comes of a plugin that the agent does not load.
const skipped = "at the agent's next restart it uses its own driver, and ends every task with secrets"

func (f *findings) configuration(n Node) {
	const check = "configuration"
	if n.ConfigErr != nil {
		f.fail(check, n.ConfigErr.Error(), "correct it; nothing else that depends on it was looked at")
		return
	}
	for _, p := range n.Config.Plugins {
		if len(p.Replaced) > 0 && slices.Contains(driver.Names(), p.Name) {
			f.warn(check, fmt.Sprintf("plugin %q is in %s and in %s: Nomad takes the last one's config alone", p.Name, strings.Join(p.Replaced, ", "), p.File), "keep one block")
		}
	}
	if !n.Config.Client && (n.Agent == nil || !n.Agent.Dev) {
		f.warn(check, "this agent is no client (client { enabled = true } is missing): it runs no tasks", "run the doctor on client nodes")
	}
	f.ok(check, "%s", strings.Join(n.Config.Files, ", "))
}

// plugins are the files in plugin_dir, each with its block.
func (f *findings) plugins(n Node) {
	if n.ConfigErr != nil {
		return
	}
	const check = "plugin_dir"
	dir := n.Config.PluginDir
	switch {
	case dir == "":
		f.fail(check, "the configuration has neither plugin_dir nor data_dir", `set plugin_dir = "/opt/nomad/plugins"`)
		return
	case n.PluginDirErr != nil:
		f.fail(check, n.PluginDirErr.Error(), "make the directory, and install this program there as docker, raw_exec or both")
		return
	case n.NoExec:
		f.fail(check, dir+" is on a file system that runs no programs (noexec)", "set plugin_dir to a directory on another; "+skipped)
	}
	ours := 0
	for _, file := range n.Files {
		if file.Ours || slices.Contains(driver.Names(), file.Name) {
			ours++
			f.file(n, dir, file)
		}
	}
	if ours == 0 {
		f.fail(check, "this program is not in "+dir, "install -m 0755 nomad-driver-secrets "+dir+"/docker, and the same as raw_exec if you use that")
	}
	for _, p := range n.Config.Plugins {
		known := slices.Contains(driver.Names(), p.Name)
		_, secrets := p.Block("secrets")
		if !known || slices.ContainsFunc(n.Files, func(file File) bool { return file.Name == p.Name }) {
			continue
		}
		switch {
		case strings.HasSuffix(p.Name, "-secrets"):
			f.fail("plugin "+p.Name, "there is a block for it, and no file "+dir+"/"+p.Name, "install this program under that name, or take the block away")
		case secrets:
			f.fail("plugin "+p.Name, "its block has secrets {}, and there is no file "+dir+"/"+p.Name+": Nomad's own driver refuses the block, and the agent does not start",
				"install this program as "+dir+"/"+p.Name+", or take secrets {} away")
		}
	}
}

func (f *findings) file(n Node, dir string, file File) {
	check, path := "plugin "+file.Name, dir+"/"+file.Name
	_, block := n.Config.Plugin(file.Name)
	known := slices.Contains(driver.Names(), file.Name)
	switch {
	case file.Err != nil:
		f.fail(check, fmt.Sprintf("%s: %v", path, file.Err), "install this program there again, or remove it: the agent does not start with it")
	case !file.Ours:
		f.warn(check, path+" is another program: tasks of that driver get no secrets", "install this program in its place, or under its own name")
	case !known && block:
		f.fail(check, path+" has a name that does not say what to wrap: the agent does not start", "rename file and block to one of "+strings.Join(driver.Names(), ", "))
	case !known:
		f.fail(check, path+" has a name that does not say what to wrap: "+skipped, "rename it to one of "+strings.Join(driver.Names(), ", ")+", and give it a plugin block")
	case !file.Executable:
		f.fail(check, path+" is not executable, so Nomad skips it: "+skipped, "chmod 0755 "+path)
	case !block:
		f.fail(check, fmt.Sprintf("there is no block plugin %q in the configuration, so Nomad skips the file: %s", file.Name, skipped),
			fmt.Sprintf("add plugin %q { config { secrets { address = \"https://…:8200\" } } }, or without the address where only Nomad Variables are wanted", file.Name))
	case file.Unsafe != "":
		f.fail(check, file.Unsafe+": who may change it is root here", "chown root and chmod go-w it")
	case file.Differs:
		f.warn(check, fmt.Sprintf("%s is another build of this program than the doctor, which is version %s, and has its block", path, n.Version),
			path+" version says which it is: install one for both, unless the other is meant")
	default:
		f.ok(check, "%s is this program, and has its block", path)
	}
}

// driver is one block's own content.
func (f *findings) driver(n Node, d Driver) {
	check := "plugin " + d.Name
	if d.ConfigErr != nil {
		f.fail(check, d.ConfigErr.Error(), "correct it: the agent does not start with it")
		return
	}
	if enabled, set := d.Plugin.Config["enabled"].(bool); d.Settings.OptIn && (!set || !enabled) {
		f.warn(check, "it has no enabled = true: no job can use this driver", "set enabled = true in its config")
	}
	if !d.Settings.InPlace && d.Settings.OfEngine && removesContainers(n, d.Settings.Wraps) {
		f.fail(check, "it stands beside Nomad's own "+d.Settings.Wraps+" driver, which removes containers that it does not know after 5 minutes",
			fmt.Sprintf(`plugin %q { config { gc { dangling_containers { enabled = false } } } }`, d.Settings.Wraps))
	}
	f.optionFiles(n, check, d)
	if d.Settings.OfEngine {
		if d.EngineErr != nil {
			f.fail("docker", fmt.Sprintf("the engine of plugin %q does not answer: %v", d.Name, d.EngineErr), "start it, or correct `endpoint` in the plugin's config")
		} else if older(d.Engine, oldestEngine) {
			f.warn("docker", fmt.Sprintf("engine %s is older than any that this plugin was tried with", d.Engine), "use Docker "+oldestEngine+" or later")
		} else {
			f.ok("docker", "engine %s", d.Engine)
		}
	}
	if d.Settings.Vault.Address == "" {
		text := "it has no address of a Vault server: tasks with Nomad Variables alone start, those with secrets of Vault's do not, and the node has no attribute driver." + d.Name + ".secrets"
		if option := ofVault(d.Plugin); option != "" {
			f.warn(check, text+"; but "+option+" is set", "set address in its secrets {}, or VAULT_ADDR in the agent's environment")
		} else {
			f.ok(check, "%s", text)
		}
	}
}

// vaultOptions are those of `secrets` that mean nothing without a Vault server.
var vaultOptions = []string{
	"namespace", "ca_cert", "ca_path", "client_cert", "client_key", "tls_server_name", "tls_skip_verify", "jwt", "from_policies", "token_file",
}

// ofVault is an option of a plugin's that is of use with a Vault server alone; empty: there is none.
func ofVault(p agentconf.Plugin) string {
	block, _ := p.Block("secrets")
	for _, option := range vaultOptions {
		if _, set := block[option]; set {
			return option
		}
	}
	return ""
}

// removesContainers reports whether Nomad's own driver of that name removes the containers of ours.
func removesContainers(n Node, name string) bool {
	builtIn, _ := n.Config.Plugin(name)
	dangling, ok := builtIn.Block("gc", "dangling_containers")
	enabled, set := dangling["enabled"].(bool)
	return !ok || !set || enabled
}

// soon is how long before its end a certificate is warned of, in days.
const soon = 14

func (f *findings) optionFiles(n Node, check string, d Driver) {
	for _, c := range d.Files {
		switch days := int(c.NotAfter.Sub(n.Now).Hours() / 24); {
		case c.Err != nil:
			f.fail(check, fmt.Sprintf("%s: %v", c.Option, c.Err), "put the file there, readable for root; tasks with secrets wait for it")
		case c.OthersMay:
			f.warn(check, fmt.Sprintf("%s: %s can be read by others than its owner", c.Option, c.Path), "chmod 0600 "+c.Path)
		case c.NotAfter.IsZero(): // a key, or a token
		case n.Now.After(c.NotAfter):
			f.fail(check, fmt.Sprintf("%s: %s ended on %s", c.Option, c.Path, c.NotAfter.UTC().Format("2006-01-02")), "replace it; the agent need not be restarted")
		case n.Now.Before(c.NotBefore):
			f.fail(check, fmt.Sprintf("%s: %s is good from %s on only", c.Option, c.Path, c.NotBefore.UTC().Format("2006-01-02 15:04 MST")), "check this node's clock")
		case days < soon:
			f.warn(check, fmt.Sprintf("%s: %s ends in %s", c.Option, c.Path, screen.Counted(days, "day")), "replace it; the agent need not be restarted")
		default:
			f.ok(check, "%s: %s is good until %s", c.Option, c.Path, c.NotAfter.UTC().Format("2006-01-02"))
		}
	}
}
