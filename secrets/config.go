package secrets

// TaskConfig is the part of a job's `config` block that is this project's, as the plugin boundary
// hands it over (msgpack, decoded by the codec tags). Nothing in it is checked yet: Compile does.
// Its blocks are pointers because the codec decodes every value of a map into the same memory: the
// maps and pointers within plain structs would be shared, and one secret's env be another's.
type TaskConfig struct {
	Secrets      map[string]*SecretConfig `codec:"secret"`
	Files        map[string]*FileConfig   `codec:"file"`
	Role         string                   `codec:"role"`
	Namespace    string                   `codec:"namespace"`
	IdentityFile string                   `codec:"identity_file"`
	ExposeToken  bool                     `codec:"expose_token"`
	FromPolicies string                   `codec:"from_policies"`
	// ByOperator is set where FromPolicies is the operator's option and not the job's; no job can.
	ByOperator bool `codec:"-" json:",omitempty"`

	StopSignal  string `codec:"stop_signal"`
	StopTimeout string `codec:"stop_timeout"`

	PreStopSignal string `codec:"pre_stop_signal" json:",omitempty"`
	PreStopWait   string `codec:"pre_stop_wait" json:",omitempty"`

	ChangeMode string `codec:"change_mode"`
	Splay      string `codec:"splay"`
	Stagger    string `codec:"stagger"`

	RegistryAuth *RegistryAuthConfig `codec:"registry_auth" json:",omitempty"`
}

// SecretConfig is one `secret "NAME" {}` block.
type SecretConfig struct {
	Provider     string                 `codec:"provider"`
	Path         string                 `codec:"path"`
	Version      int                    `codec:"version"`
	Params       []map[string]string    `codec:"params"`
	CSR          *CSRConfig             `codec:"csr" json:",omitempty"`
	Env          []map[string]string    `codec:"env"`
	EnvPrefix    *string                `codec:"env_prefix"`
	Files        map[string]*FileConfig `codec:"file"`
	AllFiles     bool                   `codec:"files"`
	LiveDir      string                 `codec:"live_dir"`
	LiveListing  bool                   `codec:"live_listing"`
	LiveStale    string                 `codec:"live_stale"`
	ChangeMode   string                 `codec:"change_mode"`
	ChangeSignal string                 `codec:"change_signal"`
	ChangeScript *ScriptConfig          `codec:"change_script"`
	Splay        string                 `codec:"splay"`
	Stagger      string                 `codec:"stagger"`
	Required     *bool                  `codec:"required"`
	// Discovered is set on what Expand adds; no job can. Exact: a policy names the path itself.
	Discovered bool `codec:"-" json:",omitempty"`
	Exact      bool `codec:"-" json:",omitempty"`
}

// provider is the name of the provider that the secret is from.
func (c *SecretConfig) provider() string {
	if c.Provider == "" {
		return DefaultProvider
	}
	return c.Provider
}

// FileConfig is one `file "PATH" {}` block, of a secret or of the task.
type FileConfig struct {
	Field    string `codec:"field"`
	Template string `codec:"template"`
	Perms    string `codec:"perms"`
	UID      *int   `codec:"uid"`
	GID      *int   `codec:"gid"`
	Decode   string `codec:"decode"`
}

// CSRConfig is a `csr {}` block.
type CSRConfig struct {
	CommonName  string   `codec:"common_name"`
	DNSNames    []string `codec:"dns_names"`
	IPAddresses []string `codec:"ip_addresses"`
	KeyType     string   `codec:"key_type"`
	KeyBits     int      `codec:"key_bits"`
	ReuseKey    bool     `codec:"reuse_key"`
}

// RegistryAuthConfig is a `registry_auth {}` block.
type RegistryAuthConfig struct {
	Secret        string `codec:"secret"`
	Username      string `codec:"username"`
	Password      string `codec:"password"`
	ServerAddress string `codec:"server_address"`
}

// ScriptConfig is a `change_script {}` block.
type ScriptConfig struct {
	Command string   `codec:"command"`
	Args    []string `codec:"args"`
	Timeout string   `codec:"timeout"`
}

// Declared reports whether the job asks for anything of ours. A task for which it is false passes
// through to the wrapped driver untouched. The operator's from_policies is the driver's to put into a
// job that says nothing of it and has an identity to be asked with.
func (c TaskConfig) Declared() bool {
	return len(c.Secrets) > 0 || len(c.Files) > 0 || c.RegistryAuth != nil || c.FromPolicies != "" && c.FromPolicies != "off"
}
