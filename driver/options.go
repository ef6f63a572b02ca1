package driver

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hashicorp/nomad/plugins/base"

	"github.com/nomad-driver-secrets/nomad-driver-secrets/lifecycle"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/nomadvar"
	"github.com/nomad-driver-secrets/nomad-driver-secrets/secrets/vault"
)

// pluginConfig is the part of a plugin's config that this project reads: its own block, and what
// it must know of the wrapped driver's.
type pluginConfig struct {
	Secrets  *secretsConfig `codec:"secrets"` // nil: the block is left out
	Endpoint string         `codec:"endpoint"`
	// PidsLimit is of all containers.
	PidsLimit        int64  `codec:"pids_limit"`
	ImagePullTimeout string `codec:"image_pull_timeout"`
	TLS              struct {
		Cert string `codec:"cert"`
		Key  string `codec:"key"`
		CA   string `codec:"ca"`
	} `codec:"tls"`
	guardConfig
}

type secretsConfig struct {
	Address            string      `codec:"address"`
	Namespace          string      `codec:"namespace"`
	CACert             string      `codec:"ca_cert"`
	CAPath             string      `codec:"ca_path"`
	ClientCert         string      `codec:"client_cert"`
	ClientKey          string      `codec:"client_key"`
	TLSServerName      string      `codec:"tls_server_name"`
	TLSSkipVerify      bool        `codec:"tls_skip_verify"`
	JWT                jwtConfig   `codec:"jwt"`
	Nomad              nomadConfig `codec:"nomad"`
	PollInterval       string      `codec:"poll_interval"`
	LeaseCheckInterval string      `codec:"lease_check_interval"`
	RequestRate        float64     `codec:"request_rate"`
	StartTimeout       string      `codec:"start_timeout"`
	FromPolicies       string      `codec:"from_policies"`
	TokenFile          string      `codec:"token_file"`
	TokenFilePaths     []string    `codec:"token_file_paths"`
	StateDir           string      `codec:"state_dir"`

	Metrics metricsConfig `codec:"metrics"`
}

type jwtConfig struct {
	Path string `codec:"path"`
	Role string `codec:"role"`
	File string `codec:"file"`
}

type metricsConfig struct {
	Address   string `codec:"address"`
	PerSecret bool   `codec:"per_secret"`
}

// nomadConfig is about Nomad Variables: an agent's address, for nodes without sockets of the task API.
type nomadConfig struct {
	File          string `codec:"file"`
	Address       string `codec:"address"`
	CACert        string `codec:"ca_cert"`
	CAPath        string `codec:"ca_path"`
	ClientCert    string `codec:"client_cert"`
	ClientKey     string `codec:"client_key"`
	TLSServerName string `codec:"tls_server_name"`
	TLSSkipVerify bool   `codec:"tls_skip_verify"`
}

// defaultSecretsConfig is the options of a plugin without a `secrets` block, and of one whose `jwt` or `nomad` block is
// left out: the schema's own defaults reach only blocks that are written.
func defaultSecretsConfig() secretsConfig {
	return secretsConfig{
		JWT:                jwtConfig{Path: "jwt-nomad", Role: "nomad-workloads", File: "private/vault.jwt"},
		Nomad:              nomadConfig{File: nomadvar.DefaultFile},
		PollInterval:       "10s",
		LeaseCheckInterval: "60s",
		RequestRate:        20,
		StartTimeout:       "2m",
		FromPolicies:       "off",
		StateDir:           DefaultStateDir,
	}
}

// DefaultStateDir is the operator's state_dir where the configuration has none.
const DefaultStateDir = "/run/nomad-driver-secrets"

// options is a plugin's config, checked.
type options struct {
	vault     vault.Config
	nomad     nomadvar.Config
	lifecycle lifecycle.Config // all but the providers, the journal's directory and the log
	stateDir  string
	metrics   metricsConfig
	docker    dockerEndpoint
	pidsLimit int64
	// imagePullTimeout is for jobs that have none of their own.
	imagePullTimeout string
	guard            guardOptions
	// fromPolicies is for jobs that say nothing of it.
	fromPolicies string
	hash         string // of the whole config
}

type dockerEndpoint struct{ host, cert, key, ca string }

// parseOptions checks a plugin's config. An error names the key. Certificates and token files are
// not looked at: one that is missing is no reason to stop an agent.
func parseOptions(name string, raw []byte) (options, error) {
	var cfg pluginConfig
	if len(raw) > 0 {
		if err := base.MsgPackDecode(raw, &cfg); err != nil {
			return options{}, fmt.Errorf("plugin %q: %w", name, err)
		}
	}
	s := defaultSecretsConfig()
	if cfg.Secrets != nil {
		def := s
		if s = *cfg.Secrets; s.JWT == (jwtConfig{}) {
			s.JWT = def.JWT
		}
		s.Nomad.File = cmp.Or(s.Nomad.File, def.Nomad.File)
	}
	if err := s.check(); err != nil {
		return options{}, fmt.Errorf("plugin %q: %w", name, err)
	}
	return options{
		vault: vault.Config{
			Address: s.Address, Namespace: s.Namespace,
			CACert: s.CACert, CAPath: s.CAPath, ClientCert: s.ClientCert, ClientKey: s.ClientKey,
			TLSServerName: s.TLSServerName, TLSSkipVerify: s.TLSSkipVerify,
			// What the server says of its mounts is not believed for longer than what it says of leases.
			MountMaxAge: mustDuration(s.LeaseCheckInterval),
		},
		nomad: nomadvar.Config{
			File: s.Nomad.File, Address: s.Nomad.Address,
			CACert: s.Nomad.CACert, CAPath: s.Nomad.CAPath, ClientCert: s.Nomad.ClientCert, ClientKey: s.Nomad.ClientKey,
			TLSServerName: s.Nomad.TLSServerName, TLSSkipVerify: s.Nomad.TLSSkipVerify,
		},
		stateDir: filepath.Clean(s.StateDir),
		metrics:  s.Metrics,
		lifecycle: lifecycle.Config{
			JWTMount: s.JWT.Path, JWTRole: s.JWT.Role, JWTFile: s.JWT.File,
			TokenFile: s.TokenFile, TokenFilePaths: s.TokenFilePaths,
			Namespace:          s.Namespace,
			PollInterval:       mustDuration(s.PollInterval),
			LeaseCheckInterval: mustDuration(s.LeaseCheckInterval),
			StartTimeout:       mustDuration(s.StartTimeout),
			RequestRate:        s.RequestRate,
		},
		fromPolicies:     s.FromPolicies,
		hash:             hashOf(raw),
		pidsLimit:        cfg.PidsLimit,
		imagePullTimeout: cfg.ImagePullTimeout,
		docker:           dockerEndpoint{host: cfg.Endpoint, cert: cfg.TLS.Cert, key: cfg.TLS.Key, ca: cfg.TLS.CA},
		// Beside state_dir: whoever looks through that finds no task's files, and no FIFO to wait at.
		guard: cfg.options(filepath.Clean(s.StateDir) + "-binds"),
	}, nil
}

func (s secretsConfig) check() error {
	var errs []error
	refuse := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("secrets.%s: %s", key, fmt.Sprintf(format, args...)))
	}
	if s.Address != "" {
		if _, err := vault.New(vault.Config{Address: s.Address}); err != nil {
			errs = append(errs, fmt.Errorf("secrets.%w", err)) // it begins with the key
		}
	}
	for _, d := range []struct {
		key, value string
		least      time.Duration
	}{
		{"poll_interval", s.PollInterval, time.Second},
		{"lease_check_interval", s.LeaseCheckInterval, time.Second},
		{"start_timeout", s.StartTimeout, time.Second},
	} {
		switch v, err := time.ParseDuration(d.value); {
		case err != nil:
			refuse(d.key, "%q is not a duration; write it like \"10s\" or \"2m\"", d.value)
		case v < d.least:
			refuse(d.key, "%s is too short; the least is %s", d.value, d.least)
		}
	}
	if s.RequestRate <= 0 {
		refuse("request_rate", "%v is not a rate; give the requests a second, more than 0", s.RequestRate)
	}
	switch s.FromPolicies {
	case "off", "env", "files", "all":
	default:
		refuse("from_policies", "%q is not known; use off, env, files or all", s.FromPolicies)
	}
	if err := checkListen(s.Metrics.Address); err != nil {
		refuse("metrics.address", "%v", err)
	}
	if !filepath.IsAbs(s.StateDir) {
		refuse("state_dir", "%q is not an absolute path", s.StateDir)
	}
	if s.TokenFile != "" && !filepath.IsAbs(s.TokenFile) {
		refuse("token_file", "%q is not an absolute path", s.TokenFile)
	}
	if s.TokenFile == "" && len(s.TokenFilePaths) > 0 {
		refuse("token_file_paths", "set without token_file")
	}
	if s.TokenFile != "" && len(s.TokenFilePaths) == 0 {
		refuse("token_file_paths", "needed with token_file: without it the node's token reads nothing")
	}
	if (s.ClientCert == "") != (s.ClientKey == "") {
		refuse("client_cert", "client_cert and client_key go together")
	}
	errs = append(errs, s.Nomad.check()...)
	return errors.Join(errs...)
}

// hashOf is what tells two configurations apart, for operators. What Nomad hands over of one is the same each time.
func hashOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:4])
}

// checkListen says what is wrong with an address to listen at; empty is none.
func checkListen(address string) error {
	if address == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(address)
	if n, e := strconv.Atoi(port); err != nil || e != nil || n < 1 || n > 65535 {
		return fmt.Errorf("%q is not an address to listen at; write it like \"127.0.0.1:9641\"", address)
	}
	return nil
}

func (n nomadConfig) check() (errs []error) {
	if n.Address != "" {
		if err := nomadvar.CheckAddress(n.Address); err != nil {
			errs = append(errs, fmt.Errorf("secrets.nomad.%w", err)) // it begins with the key
		}
	}
	if (n.ClientCert == "") != (n.ClientKey == "") {
		errs = append(errs, errors.New("secrets.nomad.client_cert: client_cert and client_key go together"))
	}
	if n.Address == "" && n != (nomadConfig{File: n.File}) {
		errs = append(errs, errors.New("secrets.nomad.address: missing, and the options about TLS are for it"))
	}
	if !filepath.IsLocal(n.File) {
		errs = append(errs, fmt.Errorf("secrets.nomad.file: %q is not a path below the task directory, such as %q", n.File, nomadvar.DefaultFile))
	}
	return errs
}

// mustDuration parses a duration that check has passed.
func mustDuration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}
