package doctor

import (
	"time"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/cmd/plugin/agentconf"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/driver"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// Node is what was found out about a machine. What does not apply is empty.
type Node struct {
	Now     time.Time
	Version string // of the program that looks
	Kernel  string // "6.1.0-13-amd64"
	UID     int    // of whoever looks

	Config    agentconf.Config
	ConfigErr error
	Agent     *agentconf.Agent // that runs with it; nil: none does

	PluginDirErr error
	NoExec       bool // plugin_dir is on a file system that runs no programs
	Files        []File

	// Drivers are the plugin blocks that are this program's: by a file of it, or by a `secrets` block.
	Drivers []Driver
	Servers []Server
	States  []StateDir

	FuseErr error
	Wrapped string // the Nomad version of the wrapped drivers
}

// File is one in plugin_dir.
type File struct {
	Name       string
	Ours       bool // it is this program, in any version
	Differs    bool // it is another build of this program than the one that looks
	Executable bool
	Unsafe     string // why others than root could replace it; empty: they cannot
	Err        error  // it could not be looked at
}

// Driver is one plugin block of this program.
type Driver struct {
	Name      string
	Plugin    agentconf.Plugin
	Settings  driver.Settings
	ConfigErr error // Nomad or the plugin refuses the block

	Files []OptionFile
	// Of the Docker engine, where the driver wraps docker.
	Engine    string
	EngineErr error
}

// OptionFile is a file that a plugin's options name: certificates, a key, or a token.
type OptionFile struct {
	Option    string
	Path      string
	Err       error     // it cannot be read, or is not what it is to be
	NotBefore time.Time // of the certificate that ends first
	NotAfter  time.Time
	OthersMay bool // a key or a token that others than its owner can read
}

// Server is a secrets server, and what one or more plugins use of it.
type Server struct {
	Config vault.Config
	Mount  string
	Role   string

	Health vault.Health
	Err    error
	Login  vault.LoginState
	Said   string // by the server, of a login that is not ready
	// Of the role, if there is a token to read it with.
	JWTRole  *vault.JWTRole
	TokenErr error
}

// StateDir is where plugins keep what they must not lose.
type StateDir struct {
	Path     string
	Missing  bool
	Unsafe   error             // others than root may write to it, or replace it
	OnDisk   map[string]string // what is mounted below it that is not in memory: name → file system
	Mounted  bool              // all below it is in memory
	CanMount bool              // the agent may mount what is not
}
