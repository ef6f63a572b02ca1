package harness

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Placement says under which names the plugin is installed.
type Placement int

// Where the plugin may be.
const (
	BuiltIn Placement = iota // not at all: Nomad's own drivers
	InPlace                  // as docker and raw_exec
	Beside                   // as docker-secrets and raw_exec-secrets
)

const besideSuffix = "-secrets"

// files are the names in plugin_dir.
func (p Placement) files() []string {
	switch p {
	case InPlace:
		return []string{"docker", "raw_exec"}
	case Beside:
		return []string{"docker" + besideSuffix, "raw_exec" + besideSuffix}
	default:
		return nil
	}
}

// AgentOptions configure an agent. Fields that end in HCL are added to that block as they are.
type AgentOptions struct {
	Name      string
	Placement Placement
	Vault     *Vault // nil in a cluster without one: Nomad alone
	AuthPath  string
	// ACL has requests to Nomad need rights. The agent's own clients have all of them.
	ACL bool

	// Secrets are attributes of the plugin's secrets block, over the harness's defaults; nil values
	// take a default away.
	Secrets map[string]any
	// StateInMemory mounts a tmpfs for the plugin's state_dir.
	StateInMemory bool

	// DanglingGrace turns the docker drivers' removal of containers that they do not know on, after
	// this long. It is off unless set: agents of other tests share the Docker engine. Under Beside it
	// stays off for the built-in driver, as it must (docs/nomad.md).
	DanglingGrace time.Duration

	// Confined turns off what the docker drivers are else allowed, as an operator has it who does not trust
	// jobs: volumes and privileged containers.
	Confined bool

	// SELinuxLabel is of the docker drivers' volumes. Any host takes it; one without SELinux does nothing with it.
	SELinuxLabel string

	// ClientCommand is what the client's command line is an argument of, unshare(1) for example.
	ClientCommand []string

	DockerHCL string            // in config of both docker drivers
	Metrics   map[string]string // driver → the address of its metrics; empty: none
	ClientHCL string
	AgentHCL  string // at the top level of the client
	Meta      map[string]string
	LogLevel  string // empty is debug
}

const identityAudience = "vault.io"

// The server and the client are agents of their own, so that a client is restarted without an election.
const commonConfig = `# Written by the harness.
name                 = "%[1]s"
data_dir             = "%[2]s"
bind_addr            = "127.0.0.1"
log_level            = "%[3]s"
disable_update_check = true
advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}
ports {
  http = %[4]d
  rpc  = %[5]d
  serf = %[6]d
}
acl {
  enabled = %[7]t
}
`

const vaultConfigOfNomad = `vault {
  enabled               = true
  address               = "%[1]s"
  jwt_auth_backend_path = "%[2]s"
  default_identity {
    aud = ["` + identityAudience + `"]
    ttl = "1h"
  }
}
`

const serverConfig = `server {
  enabled          = true
  bootstrap_expect = 1
  raft_multiplier  = 1
}
`

const clientConfig = `plugin_dir = "%[1]s"
telemetry {
  publish_allocation_metrics = true # without it the client asks no driver for stats
}
client {
  enabled           = true
  servers           = ["127.0.0.1:%[2]d"]
  network_interface = "lo"
  cni_path          = "` + cniPath + `"
  cni_config_dir    = "%[1]s"
  cpu_total_compute = 100000 # tests are many and small
  memory_total_mb   = 65536
  # An allocation that has ended stays until the agent does: tests read its logs.
  gc_max_allocs            = 10000
  gc_disk_usage_threshold  = 99
  gc_inode_usage_threshold = 99
  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean" # each waits for a timeout
  }
  meta {
%[3]s  }
%[4]s}
%[5]s%[6]s`

func (a *Agent) commonConfig(dataDir string, ports agentPorts) string {
	o := a.opts
	level := o.LogLevel
	if level == "" {
		level = "debug"
	}
	config := fmt.Sprintf(commonConfig, o.Name, dataDir, level, ports.http, ports.rpc, ports.serf, o.ACL)
	if o.Vault != nil {
		config += fmt.Sprintf(vaultConfigOfNomad, o.Vault.Addr, o.AuthPath)
	}
	return config
}

func (a *Agent) serverConfig() string {
	return a.commonConfig(filepath.Join(a.dir, "server"), a.serverPorts) + serverConfig
}

func (a *Agent) clientConfig() string {
	o := a.opts
	drivers := []string{"docker", "raw_exec"}
	if o.Placement == Beside {
		drivers = append(drivers, o.Placement.files()...)
	}
	var plugins strings.Builder
	for _, driver := range drivers {
		fmt.Fprintf(&plugins, "plugin %q {\n  config {\n%s%s  }\n}\n", driver, a.driverConfig(driver), a.secretsBlock(driver))
	}
	return a.commonConfig(a.DataDir(), a.clientPorts) + fmt.Sprintf(clientConfig, a.pluginDir(), a.serverPorts.rpc,
		attributes("    ", o.Meta), block(o.ClientHCL), plugins.String(), block(o.AgentHCL))
}

func (a *Agent) driverConfig(driver string) string {
	if strings.HasPrefix(driver, "raw_exec") {
		return "    enabled = true\n"
	}
	dangling := "enabled = false"
	if grace := a.opts.DanglingGrace; grace > 0 && driver == a.Driver("docker") {
		dangling = fmt.Sprintf("period = %q\n        creation_grace = %q", grace/2, grace)
	}
	return fmt.Sprintf(`    infra_image      = %q
    allow_privileged = %t
    volumes {
      enabled      = %[2]t
      selinuxlabel = %[3]q
    }
    gc {
      image = false # there is no registry to pull again from
      dangling_containers {
        %[4]s
      }
    }
%[5]s`, a.pause, !a.opts.Confined, a.opts.SELinuxLabel, dangling, block(a.opts.DockerHCL))
}

// secretsBlock is empty for a driver that is Nomad's own.
func (a *Agent) secretsBlock(driver string) string {
	if !slices.Contains(a.opts.Placement.files(), driver) {
		return ""
	}
	attrs := map[string]any{
		"poll_interval":        "2s",
		"lease_check_interval": "10s",
		"state_dir":            a.StateDir,
	}
	if a.opts.Vault != nil {
		attrs["address"] = a.opts.Vault.Addr
	}
	maps.Copy(attrs, a.opts.Secrets)
	metrics := ""
	if address := a.opts.Metrics[driver]; address != "" {
		metrics = fmt.Sprintf("      metrics {\n        address = %q\n      }\n", address)
	}
	return fmt.Sprintf("    secrets {\n%s      jwt {\n        path = %q\n        role = %q\n      }\n%s    }\n",
		attributes("      ", attrs), a.opts.AuthPath, DefaultWorkloadRole, metrics)
}

// attributes are `name = value` lines, sorted. JSON's strings, numbers, booleans and lists are HCL's.
func attributes[V any](indent string, attrs map[string]V) string {
	var lines strings.Builder
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		value, err := json.Marshal(attrs[name])
		if err == nil && string(value) != "null" {
			fmt.Fprintf(&lines, "%s%s = %s\n", indent, name, value)
		}
	}
	return lines.String()
}

func block(hcl string) string {
	if hcl == "" {
		return ""
	}
	return strings.TrimRight(hcl, "\n") + "\n"
}
